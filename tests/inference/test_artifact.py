from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tilewise.errors import UserError
from tilewise.inference import artifact as artifact_module
from tilewise.inference.artifact import Artifact, read_classes
from tilewise.inference.model_card import ModelCard
from tilewise.inference.predictor import Predictor
from tilewise.inference.two_stages import load_predictor
from tilewise.models.build import build_detector
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of
from tilewise.tiling.spec import Level, Tiling
from tilewise.views.view import Scaling

SPEC = DetectorSpec(
    name="ssdlite_mobilenet_v3_large",
    num_classes=2,
    scaling=Scaling(square=96),
    anchor_sizes=(0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
    score_threshold=0.01,
    nms_iou_threshold=0.45,
    detections_per_view=50,
)


@pytest.fixture(autouse=True)
def _fast() -> None:
    torch.set_flush_denormal(True)


def make_artifact(seed: int) -> Artifact:
    torch.manual_seed(seed)
    detector = build_detector(SPEC).eval()
    return Artifact(
        detector, SPEC, ("ant", "bée"), {"epochs": 3}, {"AP": 0.5, "AP_small": None}, {"gpus": []}
    )


@pytest.fixture(scope="module")
def artifacts() -> tuple[Artifact, Artifact]:
    return make_artifact(0), make_artifact(1)


@pytest.fixture
def folder(artifacts: tuple[Artifact, Artifact], tmp_path: Path) -> Path:
    artifacts[0].save(tmp_path, "model-0000")
    return tmp_path


def assert_same_weights(one: Artifact, other: Artifact) -> None:
    state, other_state = one.model.state_dict(), other.model.state_dict()
    assert state.keys() == other_state.keys()
    assert all(torch.equal(state[key], other_state[key]) for key in state)


def test_artifact__loads_as_it_was_saved(artifacts: tuple[Artifact, Artifact], folder: Path) -> None:
    loaded, original = Artifact.load(folder), artifacts[0]
    assert (loaded.spec, loaded.classes) == (original.spec, original.classes)
    assert (loaded.hyperparameters, loaded.metrics) == (original.hyperparameters, original.metrics)
    assert loaded.environment == original.environment
    assert not loaded.model.training
    assert_same_weights(loaded, original)
    image = torch.randint(256, (3, 96, 96), dtype=torch.uint8)
    with torch.inference_mode():
        one, other = (each.model.detect([image])[0] for each in (loaded, original))
    assert len(one)
    assert np.array_equal(one.boxes, other.boxes)
    assert np.array_equal(one.scores, other.scores)
    assert np.array_equal(one.labels, other.labels)


def test_artifact__is_the_same_in_another_memory_format(
    artifacts: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    original = make_artifact(0)
    original.model.to(memory_format=torch.channels_last)
    original.save(tmp_path, "model")
    assert_same_weights(Artifact.load(tmp_path), artifacts[0])


def test_folder__holds_two_files_and_the_newer_model(
    artifacts: tuple[Artifact, Artifact], folder: Path
) -> None:
    artifacts[1].save(folder, "model-0001")
    assert sorted(path.name for path in folder.iterdir()) == ["model-0001.safetensors", "model.json"]
    assert_same_weights(Artifact.load(folder), artifacts[1])


def test_folder__of_an_archive_with_a_top_folder(folder: Path) -> None:
    artifact, top = Artifact.load(folder), folder / "unpacked"
    (top / "model").mkdir(parents=True)
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(top / "model" / path.name)
    assert_same_weights(Artifact.load(top), artifact)
    assert read_classes(top) == artifact.classes
    assert Predictor.load(top).classes == artifact.classes
    assert ModelCard.read(top).classes == artifact.classes
    (top / "other").mkdir()
    (top / "other" / "model.json").write_text("{}")
    with pytest.raises(UserError, match="holds no model of Tilewise"):
        Artifact.load(top)  # which of the two is meant?


def test_files__everybody_may_read_them(folder: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("name", ["model.json", "model-0000.safetensors"])
def test_load__a_file_that_may_not_be_read(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *args: Any, **more: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **more)

    opened = Path.open  # root may read everything, so that no mode would do
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=rf"{name} may not be read by user \d+: make it readable"):
        Artifact.load(folder)


def test_description__is_readable_json(folder: Path) -> None:
    content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert content["classes"] == ["ant", "bée"]
    assert content["weights"] == "model-0000.safetensors"
    assert content["detector"]["name"] == "ssdlite_mobilenet_v3_large"
    assert set(content["versions"]) == {"tilewise", "torch", "torchvision"}
    assert read_classes(folder) == ("ant", "bée")
    assert content["environment"] == {"gpus": []}


def test_load__an_older_file_without_environment(folder: Path) -> None:
    edit(folder, environment=...)
    assert Artifact.load(folder).environment == {}


FORMAT_1 = """
{
  "format": 1,
  "weights": "model-0003.safetensors",
  "classes": ["ant", "bée"],
  "detector": {
    "name": "yolox_nano",
    "num_classes": 2,
    "scaling": {"square": 96, "min_size": null, "max_size": null},
    "anchor_sizes": null,
    "score_threshold": 0.01,
    "nms_iou_threshold": 0.45,
    "detections_per_view": 50%s
  },
  "metrics": {"epoch": 3, "AP": 0.5, "AP_small": null},
  "hyperparameters": {"number_of_epochs": 4}%s
}
"""
"""``model.json`` as the first versions wrote it, and what later ones put into it; see docs/python.md."""

TILING = """,
    "tiling": {
      "kind": "grid",
      "grid": [3, 2],
      "tile_size": null,
      "levels": [],
      "overlap": 0.2,
      "whole_from": 40.0,
      "merge": "fragment",
      "merge_threshold": 0.25
    },
    "stride_4_level": true"""

PYRAMID = """,
    "tiling": {
      "kind": "pyramid",
      "grid": null,
      "tile_size": null,
      "levels": [
        {"zoom": 1.0, "smallest": 60.0, "largest": null},
        {"zoom": 3.0, "smallest": 0.0, "largest": 80.0}
      ],
      "overlap": 0.25,
      "whole_from": 0.0,
      "merge": "nms",
      "merge_threshold": 0.4
    }"""

RECORD = """,
  "environment": {"gpus": [], "cores": 4},
  "versions": {"tilewise": "0.1.0", "torch": "2.10.0+cpu", "torchvision": "0.25.0+cpu"}"""

FIRST = DetectorSpec("yolox_nano", 2, Scaling(square=96), None, 0.01, 0.45, 50)
LEVELS = (Level(1.0, 60.0), Level(3.0, 0.0, 80.0))


@pytest.mark.parametrize(
    ("detector", "record", "spec"),
    [
        ("", "", FIRST),
        (
            TILING,
            RECORD,
            replace(
                FIRST,
                tiling=Tiling("grid", grid=(3, 2), overlap=0.2, whole_from=40.0),
                stride_4_level=True,
            ),
        ),
        (
            PYRAMID,
            RECORD,
            replace(FIRST, tiling=Tiling("pyramid", levels=LEVELS, merge="nms", merge_threshold=0.4)),
        ),
    ],
    ids=["the first", "with a grid", "with a pyramid"],
)
def test_format_1__stays_readable(detector: str, record: str, spec: DetectorSpec, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(FORMAT_1 % (detector, record), encoding="utf-8")
    weights = build_detector(spec).network.state_dict()
    save_file(weights, tmp_path / "model-0003.safetensors")
    loaded = Artifact.load(tmp_path)
    assert (loaded.spec, loaded.classes) == (spec, ("ant", "bée"))
    assert loaded.metrics == {"epoch": 3, "AP": 0.5, "AP_small": None}
    assert loaded.hyperparameters == {"number_of_epochs": 4}
    assert loaded.environment == ({"gpus": [], "cores": 4} if record else {})
    assert read_classes(tmp_path) == ("ant", "bée")
    state = loaded.model.network.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())


WEIGHTS_OF_FORMAT_1 = {
    "ssd_vgg16": "6cb609ac8fbc1d54",
    "ssd_resnet50": "848b831daf2422b9",
    "ssdlite_mobilenet_v3_large": "7de2443ae45864b6",
    "fasterrcnn_resnet18_fpn": "ab14c26723fe28a1",
    "fasterrcnn_mobilenet_v3_large_fpn": "c5fd084ab7f595b2",
    "retinanet_resnet50_fpn": "27b81d78752cbc98",
    "fcos_resnet50_fpn": "36b13869dd9f756f",
    "yolox_nano": "d0dbbde9a5a628af",
    "gfl_resnet18_fpn": "80d496d744f21ed7",
}
"""The first digits of the SHA-256 of the lines ``name shape``, sorted, of a model with two classes."""


@pytest.mark.parametrize("name", WEIGHTS_OF_FORMAT_1)
def test_format_1__weights_keep_their_names_and_shapes(name: str) -> None:
    square = family_of(name).scaling == "square"
    scaling = Scaling(square=300) if square else Scaling(min_size=300, max_size=400)
    with torch.device("meta"):
        detector = build_detector(DetectorSpec(name, 2, scaling, None, 0.01, 0.45, 50))
    state = detector.network.state_dict()
    lines = sorted(f"{name} {tuple(weight.shape)}" for name, weight in state.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest[:16] == WEIGHTS_OF_FORMAT_1[name]


def test_save__removes_what_a_killed_process_was_writing(
    artifacts: tuple[Artifact, Artifact], folder: Path
) -> None:
    (folder / ".model-0000.safetensors.writing").write_bytes(b"half a")
    artifacts[1].save(folder, "model-0001")
    assert sorted(path.name for path in folder.iterdir()) == ["model-0001.safetensors", "model.json"]


@pytest.mark.parametrize("breaks", ["model.json", "model-0001.safetensors"])
def test_save__that_fails_leaves_the_old_model(
    breaks: str, artifacts: tuple[Artifact, Artifact], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = artifact_module.write_file

    def full_disk(path: Path) -> None:
        path.write_bytes(b"half a")
        raise OSError("no space left on device")

    def failing(path: Path, how: Callable[[Path], object]) -> None:
        write(path, full_disk if path.name == breaks else how)

    monkeypatch.setattr(artifact_module, "write_file", failing)
    with pytest.raises(OSError, match="no space"):
        artifacts[1].save(folder, "model-0001")
    monkeypatch.undo()
    assert_same_weights(Artifact.load(folder), artifacts[0])
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    # what was left of the failed one goes with the next that succeeds
    artifacts[1].save(folder, "model-0002")
    assert sorted(path.name for path in folder.iterdir()) == ["model-0002.safetensors", "model.json"]


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "model.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({key: value for key, value in content.items() if value is not ...}, default=str)
    )


def drop(key: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "model.json"
        content = json.loads(path.read_text())
        del content[key]
        path.write_text(json.dumps(content))

    return damage


def cut_weights(folder: Path) -> None:
    path = folder / "model-0000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"holds no model of Tilewise: model\.json is missing"),
    "no description": (lambda folder: (folder / "model.json").unlink(), r"model\.json is missing"),
    "no weights": (
        lambda folder: (folder / "model-0000.safetensors").unlink(),
        r"model-0000\.safetensors is missing",
    ),
    "newer format": (lambda folder: edit(folder, format=2), "has format 2, which this version"),
    "not JSON": (lambda folder: (folder / "model.json").write_text("{"), "is damaged: JSONDecodeError"),
    "not text": (lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe"), "is damaged"),
    "a list": (lambda folder: (folder / "model.json").write_text("[]"), "is damaged"),
    "other classes": (
        lambda folder: edit(
            folder, detector={**SPEC.to_json(), "num_classes": 3}, classes=["ant", "bee", "cat"]
        ),
        "is damaged: RuntimeError",
    ),
    "fewer names": (
        lambda folder: edit(folder, classes=["ant"]),
        rf"model\.json names 1 classes of a model that has {SPEC.num_classes}",
    ),
    "a name of letters": (
        lambda folder: edit(folder, classes="ab"[: SPEC.num_classes]),
        r'model\.json: "classes" must be a list of different names',
    ),
    "a name twice": (
        lambda folder: edit(folder, classes=["ant"] * SPEC.num_classes),
        r'model\.json: "classes" must be a list of different names',
    ),
    "nested too deeply": (
        lambda folder: (folder / "model.json").write_text("[" * 100_000),
        "is damaged: RecursionError",
    ),
    "unknown model": (
        lambda folder: edit(folder, detector={**SPEC.to_json(), "name": "yolo"}),
        "is damaged: KeyError: 'yolo'",
    ),
    "weights elsewhere": (
        lambda folder: edit(folder, weights="../../x.safetensors"),
        "x.safetensors is missing",
    ),
    "cut weights": (cut_weights, "is damaged: SafetensorError"),
    **{
        f"no {key}": (drop(key), f"is damaged: KeyError: '{key}'")
        for key in ("format", "weights", "classes", "detector", "metrics", "hyperparameters")
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load__of_a_bad_folder_says_what_is_wrong(damage: str, folder: Path) -> None:
    spoil, message = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        Artifact.load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"recommended_threshold": "high"},
        {"recommended_thresholds": ["ant"]},
        {"score_calibration": {"temperature": 1}},
    ],
)
def test_load_predictor__what_is_recommended_is_damaged(content: dict[str, object], folder: Path) -> None:
    """An endpoint would answer as one for another task, or without thresholds."""
    edit(folder, **content)
    with pytest.raises(UserError, match=r"is damaged: its recommended_threshold, .* cannot be read"):
        load_predictor(folder, backend="eager")
