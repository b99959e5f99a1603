from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tilewise.errors import UserError
from tilewise.inference import artifact as artifact_module
from tilewise.inference.artifact import Artifact, read_classes
from tilewise.models.build import build_detector
from tilewise.models.spec import DetectorSpec
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
    state, other_state = one.detector.state_dict(), other.detector.state_dict()
    assert state.keys() == other_state.keys()
    assert all(torch.equal(state[key], other_state[key]) for key in state)


def test_artifact__loads_as_it_was_saved(artifacts: tuple[Artifact, Artifact], folder: Path) -> None:
    loaded, original = Artifact.load(folder), artifacts[0]
    assert (loaded.spec, loaded.classes) == (original.spec, original.classes)
    assert (loaded.hyperparameters, loaded.metrics) == (original.hyperparameters, original.metrics)
    assert loaded.environment == original.environment
    assert not loaded.detector.training
    assert_same_weights(loaded, original)
    image = torch.randint(256, (3, 96, 96), dtype=torch.uint8)
    with torch.inference_mode():
        one, other = (each.detector.detect([image])[0] for each in (loaded, original))
    assert len(one)
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.labels, other.labels)


def test_artifact__is_the_same_in_another_memory_format(
    artifacts: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    original = make_artifact(0)
    original.detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    original.save(tmp_path, "model")
    assert_same_weights(Artifact.load(tmp_path), artifacts[0])


def test_folder__holds_two_files_and_the_newer_model(
    artifacts: tuple[Artifact, Artifact], folder: Path
) -> None:
    artifacts[1].save(folder, "model-0001")
    assert sorted(path.name for path in folder.iterdir()) == ["model-0001.safetensors", "model.json"]
    assert_same_weights(Artifact.load(folder), artifacts[1])


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
        lambda folder: edit(folder, detector={**SPEC.to_json(), "num_classes": 3}),
        "is damaged: RuntimeError",
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
