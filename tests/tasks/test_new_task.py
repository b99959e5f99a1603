"""A made-up task in one file: which classes an image shows. All around it takes it as it takes detection."""

from __future__ import annotations

import json
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from squares import squares_split
from stand_ins import make_job
from tilewise.arrays import Array, Float32
from tilewise.data.channel import DataSet, Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.evaluation.predicting import predict_records
from tilewise.evaluation.report_content import ReportContent
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.inference.artifact import Artifact
from tilewise.inference.batching import Merge
from tilewise.inference.model_card import ModelCard
from tilewise.inference.predictor import Predictor
from tilewise.models.detector import BatchImages, VisionModel
from tilewise.registry import (
    Model,
    ModelFamily,
    family_of,
    load,
    register,
    register_task,
    unregister,
    unregister_task,
)
from tilewise.serving.app import create_app
from tilewise.serving.compute import ComputeThread
from tilewise.serving.models import Model as ServingModel
from tilewise.serving.served_model import ServedModel
from tilewise.serving.settings import Settings
from tilewise.stop import StopToken, StopWhen
from tilewise.targets import Targets
from tilewise.tasks.answers import Answered, AnswerForm, Answers, Threshold
from tilewise.tasks.task import Evaluation, Gather
from tilewise.tiling.spec import WHOLE_IMAGE, Tiling
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.history import TrainResult
from tilewise.training.job.context import JobContext
from tilewise.training.job.initial_model import read_initial_model
from tilewise.training.job.outputs import write_outputs
from tilewise.training.job.validation import test as score_test_channel
from tilewise.training.train import Start, train
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import Scaling, View
from torch import Tensor, nn


@dataclass(frozen=True)
class PresenceSpec:
    name: str
    num_classes: int
    scaling: Scaling
    tiling: Tiling = WHOLE_IMAGE
    rendering: Rendering = AS_STORED

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "num_classes": self.num_classes, "scaling": asdict(self.scaling)}


class Outputs(NamedTuple):
    features: dict[str, Tensor]
    logits: Tensor


class Glance(nn.Module):
    """Looks for each class in all places, and takes the place that shows it best."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4, padding=2), nn.ReLU(), nn.Conv2d(8, num_classes, 3, padding=1)
        )

    def forward(self, batch_BCHW: Tensor) -> Outputs:
        cells = self.body(batch_BCHW)
        return Outputs({"0": cells}, cells.amax(dim=(2, 3)).float())


def criterion(outputs: Outputs, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
    shown = torch.zeros_like(outputs.logits)
    for row, target in zip(shown, targets, strict=True):
        row[target.labels] = 1
    return {"presence": F.binary_cross_entropy_with_logits(outputs.logits, shown)}


def postprocess(outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    return list(outputs.logits.sigmoid())


def build_glance(spec: PresenceSpec) -> VisionModel:
    transform = BatchImages((0.5,) * 3, (0.5,) * 3)
    return VisionModel(Glance(spec.num_classes), transform, criterion, postprocess=postprocess)


GLANCE = ModelFamily(
    name="glance",
    pattern="glance",
    builder=f"{__name__}:build_glance",
    scaling="square",
    classification_losses=frozenset({"presence"}),
    defaults={"image_size": 64, "number_of_epochs": 20, "training_batch_size": 4, "learning_rate": 0.02},
    models=(Model("glance"),),
    tasks=("presence",),
)


@dataclass(frozen=True)
class Probabilities:
    width: int
    height: int
    by_class: tuple[float, ...]


def best_of_views(
    shown: Sequence[tuple[View, Tensor]], width: int, height: int, tiling: Tiling
) -> Probabilities:
    best = torch.stack([result for _, result in shown]).amax(dim=0)
    return Probabilities(width, height, tuple(best.tolist()))


@dataclass(frozen=True)
class ScoredPresence:
    records: Records
    probabilities: list[Probabilities]

    @classmethod
    def interleaved(cls, parts: Sequence[ScoredPresence]) -> ScoredPresence:
        raise NotImplementedError("these tests train in one process")


@dataclass(frozen=True)
class MostWrong:
    keys: list[str]

    def to_json(self) -> dict[str, Any]:
        return {"most_wrong": self.keys}

    def recommended(self) -> dict[str, Any]:
        return {"recommended_threshold": 0.5}


def as_csv(images: Sequence[Answered]) -> str:
    return "".join(",".join(f"{each:.6f}" for each in one.prediction.by_class) + "\n" for one in images)


class PresenceAnswers:
    forms: ClassVar[Mapping[str, AnswerForm]] = {"csv": AnswerForm("text/csv", as_csv)}
    schema: ClassVar[Mapping[str, Any]] = {"type": "object"}

    def content(self, answered: Answered, *, as_annotation: bool) -> dict[str, Any]:
        return {"probs": list(answered.prediction.by_class)}

    def choose(
        self,
        prediction: Probabilities,
        *,
        threshold: Threshold,
        labels: Container[int] | None,
        most: int | None,
    ) -> Probabilities:
        least = np.broadcast_to(threshold, len(prediction.by_class))
        kept = [
            each if each >= least[label] and (labels is None or label in labels) else 0.0
            for label, each in enumerate(prediction.by_class)
        ]
        return replace(prediction, by_class=tuple(kept))

    def draw(self, pixels: Array, answered: Answered) -> Image.Image:
        return Image.fromarray(np.moveaxis(pixels, 0, 2).copy())


@dataclass(frozen=True)
class PresenceTask:
    name: ClassVar[str] = "presence"
    target_fields: ClassVar[frozenset[str]] = frozenset()
    answers: ClassVar[Answers] = PresenceAnswers()

    @classmethod
    def of_job(cls, hp: Hyperparameters) -> Self:
        return cls()

    def fit_spec(self, hp: Hyperparameters, data: DataSet, initial: PresenceSpec | None) -> PresenceSpec:
        return PresenceSpec(hp.model_name, len(data.classes), Scaling(square=hp.image_size))

    def spec_from_json(self, content: dict[str, Any]) -> PresenceSpec:
        return PresenceSpec(**{**content, "scaling": Scaling(**content["scaling"])})

    def differences(self, spec: PresenceSpec, initial: PresenceSpec) -> list[str]:
        return [] if spec.name == initial.name else [f"model_name {spec.name}, but that model {initial.name}"]

    def build(self, spec: PresenceSpec) -> VisionModel:
        model: VisionModel = load(family_of(spec.name).builder)(spec)
        return model

    def merger(self, spec: PresenceSpec) -> Merge:
        return best_of_views

    def loss_figures(self, means: Mapping[str, float], spec: PresenceSpec) -> dict[str, float]:
        return {"cross_entropy": means["presence"]}

    def synthetic_targets(
        self, objects: int, size: tuple[int, int], generator: torch.Generator
    ) -> Targets[Tensor]:
        return Targets.none().to("cpu")

    def false_positives(self, prediction: Probabilities, record: Record) -> Float32:
        return np.zeros((0, 4), np.float32)

    def check_validation(self, records: Records) -> None:
        pass

    def evaluate(
        self,
        predictor: Predictor,
        records: Iterable[Record],
        issues: ChannelIssues,
        stop: StopToken,
        gather: Gather,
    ) -> Evaluation | None:
        predicted = predict_records(predictor, records, issues, stop=stop)
        scored: ScoredPresence | None = gather(ScoredPresence(*predicted) if predicted else None)
        if scored is None:
            return None
        right = [
            (0 in record.targets.labels) == (found.by_class[0] > 0.5)
            for record, found in zip(scored.records, scored.probabilities, strict=True)
        ]
        return Evaluation({"accuracy": sum(right) / len(right)}, scored)

    def scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        return {"accuracy": metrics["accuracy"]}

    def test_scores(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        return self.scores(metrics)

    def describe(self, channel: str, metrics: Mapping[str, Any]) -> list[str]:
        return [f"{channel}: accuracy {metrics['accuracy']:.2f}"]

    def scalars(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        return {f"validation/{name}": value for name, value in metrics.items()}

    def validation_pictures(
        self, scored: ScoredPresence, classes: tuple[str, ...], rendering: Rendering
    ) -> dict[str, Image.Image]:
        return {}

    def channel_statistics(
        self, records: Records, issues: ChannelIssues, classes: tuple[str, ...], *, whole: bool
    ) -> dict[str, Any]:
        return {"images": len(records), "showing": int((records.object_counts > 0).sum())}

    def analyse(
        self, scored: ScoredPresence, classes: tuple[str, ...], metrics: Mapping[str, Any]
    ) -> MostWrong:
        wrong = [
            abs((0 in record.targets.labels) - found.by_class[0])
            for record, found in zip(scored.records, scored.probabilities, strict=True)
        ]
        return MostWrong([scored.records[index].key for index in np.argsort(wrong)[::-1][:2]])

    def report_page(self, content: ReportContent, stop: StopToken) -> str:
        return f"<title>{len(content.epochs)} epochs, accuracy {content.best['accuracy']:.2f}</title>"


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(GLANCE)
    register_task("presence", f"{__name__}:PresenceTask")
    yield
    unregister_task("presence")
    unregister("glance")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("images")
    validation = squares_split(folder, "validation", 64, 8, seed=1)
    return DataSet(("dot",), squares_split(folder, "train", 64, 16), validation, validation)


def run(
    data: DataSet, base: Path, checkpoints: str, stop_after: int | None = None
) -> tuple[JobContext, TrainResult]:
    """A job on a machine of its own, which finds what the checkpoints of that name hold."""
    model, asked = base / f"model-{len(list(base.iterdir()))}", count(1)
    model.mkdir()
    (base / checkpoints).mkdir(exist_ok=True)
    kept = Checkpoints(base / checkpoints)
    stop = StopWhen(lambda: stop_after is not None and next(asked) > stop_after)
    raw = {"task": "presence", "model_name": "glance", "num_workers": 0, "optimizer": "adam"}
    job = make_job(parse_hyperparameters(raw), model, stop=stop)
    return job, train(data, job, Start(checkpoints=kept, state=kept.newest()))


def test_job__learns_and_logs_its_own_figures(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, result = run(data, tmp_path, "whole")
    assert result.best["accuracy"] == 1
    out = capsys.readouterr().out
    assert "validation accuracy <score>=(1.000000)" in out and "train cross_entropy <loss>=(" in out
    assert data.test
    assert score_test_channel(data.test, job) == {"accuracy": 1}


def test_job__stopped_and_resumed_ends_as_one_that_was_left_alone(data: DataSet, tmp_path: Path) -> None:
    expected, whole = run(data, tmp_path, "left_alone")
    for moment in (3, 20):
        assert run(data, tmp_path, "stopped", stop_after=moment)[1].stopped
    job, resumed = run(data, tmp_path, "stopped")
    assert [epoch["losses"] for epoch in resumed.epochs] == [epoch["losses"] for epoch in whole.epochs]
    one, other = (next(folder.model_dir.glob("*.safetensors")) for folder in (expected, job))
    assert one.read_bytes() == other.read_bytes()


def test_job__batch_size_by_the_memory(data: DataSet, tmp_path: Path) -> None:
    raw = {"task": "presence", "model_name": "glance", "num_workers": 0, "training_batch_size": "auto"}
    (tmp_path / "model").mkdir()
    hp = parse_hyperparameters(raw | {"number_of_epochs": 1})
    assert train(data, make_job(hp, tmp_path / "model")).epochs[0]["records"] == 16


def test_outputs__are_its_own(data: DataSet, tmp_path: Path) -> None:
    job, result = run(data, tmp_path, "kept")
    write_outputs(result, data, job, folder=tmp_path / "output")
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert metrics["data"]["train"] == {"images": 16, "showing": 12}
    assert len(metrics["details"]["most_wrong"]) == 2
    assert json.loads((job.model_dir / "model.json").read_text())["recommended_threshold"] == 0.5
    assert "accuracy 1.00" in (tmp_path / "output" / "report.html").read_text()


def test_model__is_saved_and_served(data: DataSet, tmp_path: Path) -> None:
    job, _ = run(data, tmp_path, "kept")
    model = job.model_dir
    assert json.loads((model / "model.json").read_text())["task"] == "presence"
    assert Artifact.load(model).spec == PresenceSpec("glance", 1, Scaling(square=64))
    assert read_initial_model(model).task == "presence"

    thread = ComputeThread(30, 60, lambda: None)
    served = ServedModel(lambda: Predictor.load(model), thread, lambda: None, on_breakdown=lambda: None)
    thread.start()
    while not served.ready:
        time.sleep(0.01)
    http = create_app(ServingModel(served, ModelCard.read(model)), Settings()).test_client()
    assert isinstance(data.train, Split)
    for index, shown in ((3, True), (4, False)):
        image = data.train.records[index].read()
        answer = http.post("/invocations", data=image, content_type="image/png").get_json()
        assert (answer["probs"][0] > 0.5) == shown
        options = {"threshold": 0.5}
        csv = http.post("/invocations", data=image, headers={"Accept": "text/csv"}, query_string=options)
        assert csv.mimetype == "text/csv" and (float(csv.data) == 0) != shown
        picture = http.post("/invocations", data=image, headers={"Accept": "image/png"})
        assert (picture.status_code, picture.mimetype) == (200, "image/png")
    named = http.get("/openapi.json").get_json()["paths"]["/invocations"]["post"]["parameters"][-1]
    assert named["schema"] == {"enum": ["csv", "jpeg", "png"]}
    refused = http.post("/invocations", data=image, headers={"Accept": "application/json;format=azure"})
    assert refused.status_code == 406 and "format= one of csv" in refused.get_json()["error"]


def test_model__of_another_task_is_no_start(data: DataSet, tmp_path: Path) -> None:
    initial = read_initial_model(run(data, tmp_path, "kept")[0].model_dir)
    (tmp_path / "detector").mkdir()
    raw = {"model_name": "ssdlite_mobilenet_v3_large", "image_size": 320, "num_workers": 0}
    job = make_job(parse_hyperparameters(raw), tmp_path / "detector")
    with pytest.raises(UserError, match="this job has task detection, but that model presence"):
        train(data, job, Start(initial=initial))


def test_model__of_a_task_that_there_is_not(data: DataSet, tmp_path: Path) -> None:
    model = run(data, tmp_path, "kept")[0].model_dir
    unregister_task("presence")
    try:
        with pytest.raises(UserError, match="has no task presence; the tasks are: classification, detection"):
            Artifact.load(model)
    finally:
        register_task("presence", f"{__name__}:PresenceTask")


def test_hyperparameters__know_it() -> None:
    with pytest.raises(UserError, match="'glance' is a model for task=presence; available here: ssd_vgg16,"):
        parse_hyperparameters({"model_name": "glance"})
    with pytest.raises(UserError, match="there is no such model; available: glance"):
        parse_hyperparameters({"task": "presence", "model_name": "squint"})
