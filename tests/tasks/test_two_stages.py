"""A detector and a made-up classifier, of another task, as one model: loaded, asked and served."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from tilewise.__main__ import main
from tilewise.arrays import Float32
from tilewise.errors import UserError
from tilewise.inference.artifact import Artifact, add_to_description, read_classes
from tilewise.inference.batching import Merge
from tilewise.inference.model_card import DEFAULT_THRESHOLD, ModelCard
from tilewise.inference.predictor import Predictor
from tilewise.inference.two_stages import load_predictor
from tilewise.models.detector import BatchImages, VisionModel
from tilewise.registry import register_task, unregister_task
from tilewise.serving.app import create_app
from tilewise.serving.compute import ComputeThread
from tilewise.serving.models import Model
from tilewise.serving.served_model import ServedModel
from tilewise.serving.settings import Settings
from tilewise.tiling.spec import WHOLE_IMAGE, TileOptions, Tiling
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import Scaling, View
from torch import Tensor, nn

COLOURS = ("red", "green", "blue")
SCALING = Scaling(square=32)


@dataclass(frozen=True)
class ColourSpec:
    name: str = "colour"
    scaling: Scaling = SCALING
    tiling: Tiling = WHOLE_IMAGE
    rendering: Rendering = AS_STORED

    def to_json(self) -> dict[str, Any]:
        return {"scaling": asdict(self.scaling)}


class Outputs(NamedTuple):
    features: dict[str, Tensor]
    shares: Tensor


class MeanColour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, batch_BCHW: Tensor) -> Outputs:
        means = batch_BCHW.mean(dim=(2, 3)) * self.scale
        return Outputs({}, means / means.sum(dim=1, keepdim=True).clamp(min=1e-6))


def no_losses(outputs: Outputs, targets: Sequence[Any]) -> dict[str, Tensor]:
    raise NotImplementedError


def postprocess(outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    return list(outputs.shares)


@dataclass(frozen=True)
class Colour:
    width: int
    height: int
    shares: Float32


def of_one_view(shown: Sequence[tuple[View, Tensor]], width: int, height: int, tiling: Tiling) -> Colour:
    ((_, shares),) = shown
    return Colour(width, height, shares.numpy())


class ColourTask:
    """What of the task protocol it takes to be used; it is not trained."""

    name: ClassVar[str] = "colour"

    def spec_from_json(self, content: dict[str, Any]) -> ColourSpec:
        return ColourSpec(scaling=Scaling(**content["scaling"]))

    def build(self, spec: ColourSpec) -> VisionModel:
        return VisionModel(MeanColour(), BatchImages((0.0,) * 3, (1.0,) * 3), no_losses, postprocess)

    def merger(self, spec: ColourSpec) -> Merge:
        return of_one_view

    def class_scores(self, prediction: Colour) -> Float32:
        return prediction.shares


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register_task("colour", f"{__name__}:ColourTask")
    yield
    unregister_task("colour")


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """The detector's folder, with the classifier's in it."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (folder / "classifier").mkdir()
    task = ColourTask()
    model = task.build(ColourSpec()).eval()
    Artifact(model, ColourSpec(), COLOURS, {}, {}, task="colour").save(folder / "classifier", "model")
    add_to_description(folder, {"classifier": {"model": "classifier", "margin": 0, "score_threshold": 0.0}})
    return folder


def halves() -> bytes:
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[:, :160, 0] = 200
    pixels[:, 160:, 2] = 200
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_two_stages__the_classifier_says_what_the_detector_finds(folder: Path, model_folder: Path) -> None:
    # what is faster in a moment is taken else, and differs in the last digits
    predictor = load_predictor(folder, backend="eager")
    found = predictor.predict(halves()).detections
    boxes = Predictor.load(model_folder, backend="eager").predict(halves()).detections
    assert predictor.classes == read_classes(folder) == COLOURS
    assert len(found) == len(boxes) > 10
    scores = {tuple(box): score for box, score, _ in boxes}
    pure = 0
    for box, score, label in found:
        if box[2] < 158 or box[0] > 162:
            pure += 1
            assert COLOURS[label] == ("red" if box[2] < 158 else "blue")
            assert score == pytest.approx(scores[tuple(box)], abs=1e-5)
    assert pure > 5
    assert (np.diff(found.scores) <= 0).all()


def test_two_stages__tiles_and_a_score_to_begin_with(folder: Path, model_folder: Path) -> None:
    scores = Predictor.load(model_folder, backend="eager").predict(halves()).detections.scores
    for least in (0.0, float(scores[0]), 1.0):
        add_to_description(folder, {"classifier": {"model": "classifier", "score_threshold": least}})
        kept = len(load_predictor(folder, backend="eager").predict(halves()).detections)
        assert kept == (scores >= least).sum()
    assert 0 < (scores >= scores[0]).sum() < len(scores)
    tiled = load_predictor(folder, backend="eager").seen_as(TileOptions(grid=(2, 1)))
    assert tiled.plan.tiling.grid == (2, 1) and tiled.classes == COLOURS


def test_two_stages__recommend_nothing_of_the_detectors_scores(folder: Path) -> None:
    """The answers' scores are lower: they are multiplied by the classifier's."""
    of_the_detector = {
        "recommended_threshold": 0.7,
        "recommended_thresholds": {"red": 0.8},
        "score_calibration": {"temperature": 2.0, "bias": -1.0},
    }
    add_to_description(folder, of_the_detector)
    card = ModelCard.read(folder)
    assert (card.threshold, card.thresholds, card.calibration) == (None, {}, None)
    assert card.recommended(COLOURS) == [DEFAULT_THRESHOLD] * len(COLOURS)


def test_two_stages__served(folder: Path) -> None:
    thread = ComputeThread(30, 60, lambda: None)
    served = ServedModel(lambda: load_predictor(folder), thread, lambda: None, on_breakdown=lambda: None)
    thread.start()
    assert served.wait_until_loaded()
    http = create_app(Model(served, ModelCard.read(folder)), Settings()).test_client()
    assert http.get("/").get_json()["model"]["classes"] == [*COLOURS]
    answer = http.post("/invocations?classes=blue", data=halves()).get_json()
    assert answer["classes"] == [*COLOURS]
    assert {row[0] for row in answer["prediction"]} == {2.0}
    assert min(row[4] for row in answer["prediction"]) > 0.5, "blue is on the right"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model": "nowhere"}, "nowhere holds no model of Tilewise"),
        ({"model": "."}, "is for the task detection, which does not classify crops"),
        ({"model": ""}, r"model\.json: classifier: model must name a folder"),
        ({"model": "classifier", "margin": -1}, "margin lie in 0..10"),
        ({"model": "classifier", "border": 1}, r"model\.json: .*border"),
    ],
)
def test_two_stages__wrong_descriptions(folder: Path, content: dict[str, Any], reason: str) -> None:
    add_to_description(folder, {"classifier": content})
    with pytest.raises(UserError, match=reason):
        load_predictor(folder)


def test_two_stages__of_a_task_without_objects(folder: Path) -> None:
    inner = folder / "classifier"
    add_to_description(inner, {"classifier": {"model": "."}})
    with pytest.raises(UserError, match="the task colour finds no objects to classify"):
        load_predictor(inner)


def test_predict__names_the_classifiers_classes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "halves.png"
    image.write_bytes(halves())
    arguments = ["tilewise", "predict", str(image), "--model", str(folder), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 0
    assert json.loads((tmp_path / "halves-detections.json").read_text())["classes"] == [*COLOURS]
