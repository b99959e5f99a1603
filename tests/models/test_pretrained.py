from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from tilewise.errors import UserError
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.pretrained import load_pretrained
from tilewise.models.spec import DetectorSpec
from tilewise.views.view import Scaling
from torch import Tensor, nn
from torchvision.models import detection

LITE = "ssdlite_mobilenet_v3_large"
LITE_FILE = "ssdlite320_mobilenet_v3_large_coco-a79551df.pth"
PUBLISHED = {
    "ssd_vgg16": "ssd300_vgg16",
    LITE: "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn": "fcos_resnet50_fpn",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TILEWISE_WEIGHTS", str(tmp_path))
    return tmp_path


def make_detector(name: str = LITE, classes: int = 2) -> Detector:
    square = name.startswith("ssd")
    scaling = Scaling(square=300) if square else Scaling(min_size=64, max_size=64)
    return build_detector(DetectorSpec(name, classes, scaling, None, 0.3, 0.5, 100))


def publish(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """A file of weights as torchvision publishes them, all tensors of it ones."""
    weights = OrderedDict((key, torch.ones_like(value)) for key, value in network.state_dict().items())
    torch.save(weights, path)
    return weights


@pytest.mark.parametrize("name", PUBLISHED)
def test_published__fit_all_tensors(name: str) -> None:
    make_theirs = getattr(detection, PUBLISHED[name])
    with torch.device("meta"):
        theirs = make_theirs(weights=None, weights_backbone=None, num_classes=91)
        ours = make_detector(name, 91 if name.startswith(("retina", "fcos")) else 90)
    wanted = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.network.state_dict().items()} == wanted


def test_pretrained__all_tensors(folder: Path) -> None:
    detector = make_detector()
    weights = publish(detector.network, folder / LITE_FILE)
    sentence = load_pretrained(detector, LITE)
    assert sentence == f"{len(weights)} tensors loaded from {LITE_FILE}; initialised anew: none"
    assert all((value == 1).all() for value in detector.network.state_dict().values())


def test_pretrained__other_classes_leave_the_heads_fresh_and_name_them(folder: Path) -> None:
    publish(make_detector(classes=5).network, folder / LITE_FILE)
    detector = make_detector()
    before = {key: value.clone() for key, value in detector.network.state_dict().items()}
    sentence = load_pretrained(detector, LITE)
    fresh = sentence.rsplit(": ", 1)[1].split(", ")
    assert fresh == [
        f"head.classification_head.module_list.{i}.1.{p}" for i in range(6) for p in ("weight", "bias")
    ]
    for key, value in detector.network.state_dict().items():
        assert torch.equal(value, before[key] if key in fresh else torch.ones_like(value))


def test_pretrained__old_names_are_understood(folder: Path) -> None:
    # published in 2020: convolutions have other names since, and frozen normalisation counts no batches
    name = "fasterrcnn_resnet50_fpn"
    with torch.device("meta"):
        shapes = make_detector(name).network.state_dict()
    old = OrderedDict()
    for key, value in shapes.items():
        if not key.endswith("num_batches_tracked"):
            key = re.sub(r"(fpn\.\w+_blocks\.\d)\.0|(rpn\.head\.conv)\.0\.0", r"\1\2", key)
            old[key] = torch.ones(1).expand(value.shape)
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.bias"} <= old.keys()
    torch.save(old, folder / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    with torch.device("meta"):
        detector = make_detector(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensors without data take no values
        sentence = load_pretrained(detector, name)
    assert sentence.endswith("initialised anew: none")


def test_pretrained__none_published() -> None:
    sentence = load_pretrained(Detector(nn.Identity(), background=True), "fasterrcnn_resnet18_fpn")
    assert (
        sentence == "no pretrained weights are published for fasterrcnn_resnet18_fpn: training from scratch"
    )


def test_pretrained__file_missing(folder: Path) -> None:
    sentence = load_pretrained(Detector(nn.Identity(), background=True), LITE)
    assert sentence == f"use_pretrained_model=1, but {LITE_FILE} is not in {folder}: training from scratch"


def test_pretrained__no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TILEWISE_WEIGHTS", raising=False)
    sentence = load_pretrained(Detector(nn.Identity(), background=True), LITE)
    assert "TILEWISE_WEIGHTS is not set" in sentence
    assert sentence.endswith("training from scratch")


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, ("pwned",)


def write_bad(kind: str, path: Path) -> None:
    contents = {"empty": b"", "text": b"Not Found", "html": b"<html>404</html>", "pickle": b"\x80\x04K\x01."}
    if kind == "truncated":
        torch.save({"a": torch.ones(1000)}, path)
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "list":
        torch.save([torch.ones(2)], path)
    elif kind == "numbers":
        torch.save({"head.conv.weight": 1, "other": "text"}, path)
    elif kind == "code":
        torch.save(Malice(), path)
    else:
        path.write_bytes(contents[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "html", "pickle", "truncated", "list", "numbers", "code"])
def test_pretrained__bad_file_is_the_users_to_mend(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    path = folder / LITE_FILE
    write_bad(kind, path)
    detector = Detector(nn.Conv2d(1, 1, 1), background=True)
    with pytest.raises(UserError) as caught:
        load_pretrained(detector, LITE)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "pwned").exists()


def test_pretrained__weights_of_another_model(folder: Path) -> None:
    publish(nn.Linear(2, 2), folder / LITE_FILE)
    with pytest.raises(UserError, match="holds none of the tensors of ssdlite"):
        load_pretrained(Detector(nn.Conv2d(1, 1, 1, bias=False).to(), background=True), LITE)
