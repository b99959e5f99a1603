from __future__ import annotations

import argparse
import re
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tilewise.errors import UserError
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.pretrained import load_pretrained, published_files
from tilewise.models.spec import DetectorSpec
from tilewise.registry import model_names
from tilewise.views.view import Scaling
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection

LITE = "ssdlite_mobilenet_v3_large"
LITE_FILE = "ssdlite320_mobilenet_v3_large_coco-a79551df.pth"
PUBLISHED = {
    "ssd_vgg16": "ssd300_vgg16",
    LITE: "ssdlite320_mobilenet_v3_large",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn",
    "maskrcnn_resnet50_fpn": "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn": "fcos_resnet50_fpn",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TILEWISE_WEIGHTS", str(tmp_path))
    return tmp_path


def make_detector(name: str = LITE, classes: int = 2) -> Detector:
    square = name.startswith(("ssd", "yolox"))
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
    assert sentence == f"{len(weights)} tensors loaded from {LITE_FILE}; newly initialised: none"
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
    assert sentence.endswith("newly initialised: none")


def test_pretrained__file_missing(folder: Path) -> None:
    sentence = load_pretrained(Detector(nn.Identity(), *3 * [nn.Identity()]), LITE)
    assert sentence == (
        f"use_pretrained_model=1, but there is no {LITE_FILE}, mobilenet_v3_large-8738ca79.pth, "
        f"mobilenet_v3_large-5c1a4163.pth in {folder}: training from scratch"
    )


def test_pretrained__no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TILEWISE_WEIGHTS", raising=False)
    sentence = load_pretrained(Detector(nn.Identity(), *3 * [nn.Identity()]), "yolox_s")
    assert sentence == (
        "use_pretrained_model=1, but there is no yolox_s.pth here (TILEWISE_WEIGHTS names no folder): "
        "training from scratch"
    )


# Backbones


def publish_classifier(model: str, path: Path, value: float = 1.0) -> None:
    """A file as torchvision publishes its classifiers: names and shapes of the real one."""
    with torch.device("meta"):
        shapes = getattr(models, model)(weights=None).state_dict()
    torch.save(OrderedDict((key, torch.tensor(value).expand(one.shape)) for key, one in shapes.items()), path)


@pytest.mark.parametrize(
    ("name", "file", "loaded", "fresh"),
    [
        ("gfl_resnet18_fpn", "resnet18-f37072fd.pth", "backbone.body", {"backbone.fpn", "head"}),
        ("fasterrcnn_resnet18_fpn", "resnet18-f37072fd.pth", "backbone.body", {"backbone.fpn", "rpn"}),
        ("ssd_resnet50", "resnet50-11ad3fa6.pth", "backbone.body", {"backbone.extra", "head"}),
        (
            "fasterrcnn_mobilenet_v3_large_fpn",
            "mobilenet_v3_large-8738ca79.pth",
            "backbone.body",
            {"backbone.fpn.inner_blocks.0.0.weight", "rpn.head.conv.0.0.weight"},
        ),
        ("ssdlite_mobilenet_v3_large", "mobilenet_v3_large-5c1a4163.pth", "backbone.features.0", {"head"}),
    ],
)
def test_backbone__of_torchvisions_classifiers(
    name: str, file: str, loaded: str, fresh: set[str], folder: Path
) -> None:
    publish_classifier(file.split("-")[0], folder / file)
    detector = make_detector(name)
    before = {key: value.clone() for key, value in detector.network.state_dict().items()}
    sentence = load_pretrained(detector, name)
    assert f"loaded from {file} (a backbone's); newly initialised: " in sentence
    assert fresh <= set(sentence.rsplit(": ", 1)[1].split(", "))
    after = detector.network.state_dict()
    own = [key for key in after if key.startswith(f"{loaded}.")]
    assert len(own) > 60
    assert all((after[key] == 1).all() for key in own if not key.endswith("num_batches_tracked"))
    others = [key for key in after if key.startswith(("head", "rpn", "roi_heads", "backbone.fpn"))]
    assert others
    assert all(torch.equal(after[key], before[key]) for key in others)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ssdlite_mobilenet_v3_large", "mobilenet_v3_large-8738ca79.pth"),
        ("fasterrcnn_mobilenet_v3_large_fpn", "mobilenet_v3_large-8738ca79.pth"),
        ("ssd_vgg16", "vgg16_features-amdegroot-88682ab5.pth"),
    ],
)
def test_backbone__each_layer_gets_its_own(name: str, file: str, folder: Path) -> None:
    # numbered layers: in a detector they keep their order
    with torch.device("meta"):
        theirs = getattr(models, file.split("-")[0].removesuffix("_features"))(weights=None).state_dict()
        shapes = make_detector(name).network.state_dict()
    numbered = {key: torch.tensor(float(i)).expand(one.shape) for i, (key, one) in enumerate(theirs.items())}
    torch.save({key: value for key, value in numbered.items() if key.startswith("features.")}, folder / file)
    detector = make_detector(name)
    load_pretrained(detector, name)
    after = detector.network.state_dict()
    pieces = ("backbone.features.", "backbone.extra.0.", "backbone.body.")
    convolutions = [key for key in after if key.startswith(pieces) and after[key].ndim == 4]
    wanted = [key for key in theirs if key.startswith("features.") and theirs[key].ndim == 4]
    checked = 0
    for ours, key in zip(convolutions, wanted, strict=False):
        if shapes[ours].shape == theirs[key].shape:
            assert (after[ours] == numbered[key]).all(), ours
            checked += 1
    assert checked >= 13


def test_backbone__a_vgg_of_unit_variance_is_scaled_to_the_pixels_of_ssd(folder: Path) -> None:
    publish_classifier("vgg16", folder / "vgg16-397923af.pth")
    detector = make_detector("ssd_vgg16")
    load_pretrained(detector, "ssd_vgg16")
    weights = detector.network.state_dict()
    std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    torch.testing.assert_close(weights["backbone.features.0.weight"], (1 / (255 * std)).expand(64, 3, 3, 3))
    assert (weights["backbone.features.2.weight"] == 1).all()
    assert (weights["backbone.extra.0.5.weight"] == 1).all()
    assert not (weights["backbone.extra.0.7.1.weight"] == 1).any()


def test_backbone__a_whole_detector_is_better(folder: Path) -> None:
    publish_classifier("mobilenet_v3_large", folder / "mobilenet_v3_large-8738ca79.pth")
    publish(make_detector().network, folder / LITE_FILE)
    assert f"loaded from {LITE_FILE};" in load_pretrained(make_detector(), LITE)


# More feature maps than published


def publish_levels(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """A file whose tensors all have another value."""
    state = network.state_dict().items()
    weights = {key: torch.tensor(float(n)).expand(each.shape) for n, (key, each) in enumerate(state)}
    torch.save(weights, path)
    return weights


@pytest.mark.parametrize(
    ("anchors", "stride_4", "front"), [((0.05, 0.1, 0.2, 0.35, 0.6, 0.9), False, 1), (None, True, 2)]
)
def test_levels__of_ssdlite_for_small_objects(
    anchors: tuple[float, ...] | None, stride_4: bool, front: int, folder: Path
) -> None:
    """It cuts its layers into other pieces, where small objects had the job fit its anchors."""
    theirs = publish_levels(make_detector(LITE, classes=90).network, folder / LITE_FILE)
    spec = DetectorSpec(LITE, 2, Scaling(square=300), anchors, 0.3, 0.5, 100, stride_4_level=stride_4)
    detector = build_detector(spec)
    sentence = load_pretrained(detector, LITE)
    assert f"tensors loaded from {LITE_FILE}; newly initialised: head.classification_head." in sentence
    assert "backbone" not in sentence
    own = detector.network.state_dict()
    layers, published = (
        [key for key in keys if key.startswith("backbone.features.") and not key.endswith("_tracked")]
        for keys in (own, theirs)
    )
    assert len(layers) == len(published) and layers != published
    assert all(torch.equal(own[key], theirs[name]) for key, name in zip(layers, published, strict=True))
    head = "head.regression_head.module_list.{}.1.weight"
    for level in range(4):
        assert torch.equal(own[head.format(level + front)], theirs[head.format(level)])
    assert torch.equal(own["backbone.extra.0.0.0.weight"], theirs["backbone.extra.0.0.0.weight"])


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
@pytest.mark.parametrize("old", [False, True])
def test_levels__of_a_pyramid_that_begins_at_stride_4(name: str, old: bool, folder: Path) -> None:
    square = Scaling(min_size=64, max_size=64)
    with torch.device("meta"):
        plain, fine = (
            build_detector(DetectorSpec(name, 2, square, None, 0.3, 0.5, 100, stride_4_level=more)).network
            for more in (False, True)
        )
    file = published_files(name)[0]
    theirs = publish_levels(plain, folder / file)
    if old:
        renamed = {re.sub(r"(_blocks\.\d)\.0", r"\1", key): each for key, each in theirs.items()}
        assert renamed.keys() != theirs.keys()
        torch.save(renamed, folder / file)
    detector = Detector(fine.to_empty(device="cpu"), *3 * [nn.Identity()])
    sentence = load_pretrained(detector, name)
    fresh = (
        f"backbone.fpn.{kind}_blocks.0.0.{each}" for kind in ("inner", "layer") for each in ("weight", "bias")
    )
    assert sentence.endswith(f"newly initialised: {', '.join(fresh)}")
    own = detector.network.state_dict()
    for kind in ("inner", "layer"):
        for level in range(3):
            key = f"backbone.fpn.{kind}_blocks.{{}}.0.weight"
            assert torch.equal(own[key.format(level + 1)], theirs[key.format(level)])


# YOLOX


def publish_yolox(path: Path, classes: int) -> dict[str, Tensor]:
    """A checkpoint as YOLOX publishes them."""
    with torch.device("meta"):
        shapes = make_detector("yolox_nano", classes).network.state_dict()
    weights = {key: torch.tensor(1.0).expand(value.shape) for key, value in shapes.items()}
    assert {"backbone.backbone.dark2.0.dconv.conv.weight", "head.stems.0.conv.weight"} <= weights.keys()
    torch.save({"start_epoch": 300, "model": weights, "optimizer": {"state": {}, "param_groups": []}}, path)
    return weights


def test_yolox__all_tensors(folder: Path) -> None:
    weights = publish_yolox(folder / "yolox_nano.pth", classes=2)
    detector = make_detector("yolox_nano")
    sentence = load_pretrained(detector, "yolox_nano")
    assert sentence == f"{len(weights)} tensors loaded from yolox_nano.pth; newly initialised: none"
    assert all((value == 1).all() for value in detector.network.state_dict().values())


def test_yolox__other_classes_leave_the_class_predictions_fresh(folder: Path) -> None:
    publish_yolox(folder / "yolox_nano.pth", classes=80)
    sentence = load_pretrained(make_detector("yolox_nano"), "yolox_nano")
    fresh = ", ".join(f"head.cls_preds.{level}.{kind}" for level in range(3) for kind in ("weight", "bias"))
    assert sentence.endswith(f"newly initialised: {fresh}")


def test_yolox__weights_of_another_size(folder: Path) -> None:
    with torch.device("meta"):
        shapes = make_detector("yolox_s").network.state_dict()
    ones = {key: torch.tensor(1.0).expand(value.shape) for key, value in shapes.items()}
    torch.save(ones, folder / "yolox_nano.pth")
    with pytest.raises(UserError, match="weights of another model: only 53 of its tensors fit"):
        load_pretrained(make_detector("yolox_nano"), "yolox_nano")


# The channel


def test_channel__its_only_file_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "README.txt").write_text("mine")
    save_file(make_detector().network.state_dict(), tmp_path / "deep" / "mine.safetensors")
    sentence = load_pretrained(make_detector(), LITE, tmp_path)
    assert "tensors loaded from mine.safetensors; newly initialised: none" in sentence


def test_channel__goes_before_the_folder_and_the_published_name_before_others(
    tmp_path: Path, folder: Path
) -> None:
    channel = tmp_path / "channel"
    channel.mkdir()
    publish(nn.Linear(2, 2), folder / LITE_FILE)
    publish(nn.Linear(2, 2), channel / "other.pth")
    publish(make_detector().network, channel / LITE_FILE)
    assert "newly initialised: none" in load_pretrained(make_detector(), LITE, channel)


@pytest.mark.parametrize("files", [[], ["a.pth", "b.pt"]])
def test_channel__without_a_file_to_take(files: list[str], tmp_path: Path) -> None:
    for file in files:
        publish(nn.Linear(2, 2), tmp_path / file)
    with pytest.raises(UserError) as caught:
        load_pretrained(make_detector(), LITE, tmp_path)
    assert "channel pretrained: give it one file of weights" in str(caught.value)
    assert f"it has {', '.join(files) or 'none'}" in str(caught.value)


def test_channel__with_a_packed_model(tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"it has none and model\.tar\.gz: unpack it, or give .* channel model"
    ):
        load_pretrained(make_detector(), LITE, tmp_path)


@pytest.mark.parametrize("name", model_names())
def test_published__files_are_torchvisions_or_yoloxs(name: str) -> None:
    if name.startswith("yolox"):
        assert published_files(name) == [f"{name}.pth", f"{name}.safetensors"]
        return
    backbone = re.search(r"resnet\d+|mobilenet_v3_large|vgg16", name)
    assert backbone is not None
    theirs = files_of(getattr(detection, PUBLISHED[name])) if name in PUBLISHED else []
    theirs += sorted(files_of(backbone[0]), key=lambda file: "features" not in file)
    assert published_files(name)[::2] == theirs
    assert published_files(name)[1::2] == [file.replace(".pth", ".safetensors") for file in theirs]


def files_of(model: object) -> list[str]:
    return [weights.url.rsplit("/", 1)[1] for weights in models.get_model_weights(model)]


# Files that are none


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
def test_pretrained__bad_file_is_the_users_to_fix(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    path = folder / LITE_FILE
    write_bad(kind, path)
    detector = Detector(nn.Conv2d(1, 1, 1), *3 * [nn.Identity()])
    with pytest.raises(UserError) as caught:
        load_pretrained(detector, LITE)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize("part", ["model", "state_dict", None])
@pytest.mark.parametrize("wrapped", [False, True])
def test_pretrained__of_a_checkpoint_of_another_program(
    part: str | None, wrapped: bool, folder: Path
) -> None:
    weights = publish_yolox(folder / "yolox_nano.pth", classes=2)
    named = {f"module.{key}" if wrapped else key: each for key, each in weights.items()}
    torch.save({part: named, "meta": {"epoch": 3}} if part else named, folder / "yolox_nano.pth")
    sentence = load_pretrained(make_detector("yolox_nano"), "yolox_nano")
    assert sentence.endswith("newly initialised: none")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pretrained__weights_that_are_no_numbers(value: float, folder: Path) -> None:
    weights = publish(make_detector("yolox_nano"), folder / "ones.pth")
    weights = {key.removeprefix("network."): each for key, each in weights.items()}
    weights["head.stems.1.conv.weight"][0] = value
    torch.save(weights, folder / "yolox_nano.pth")
    with pytest.raises(UserError, match=r"head\.stems\.1\.conv\.weight holds NaN or infinity"):
        load_pretrained(make_detector("yolox_nano"), "yolox_nano")


def test_pretrained__other_objects_in_a_checkpoint_are_named(folder: Path) -> None:
    """As torchvision's reference training leaves the arguments of its command line."""
    weights = make_detector().network.state_dict()
    torch.save({"model": weights, "args": argparse.Namespace(lr=0.02)}, folder / LITE_FILE)
    with pytest.raises(UserError) as caught:
        load_pretrained(make_detector(), LITE)
    assert "holds other objects than tensors (argparse.Namespace)" in str(caught.value)
    assert 'torch.save(checkpoint["model"], …)' in str(caught.value) and "damaged" not in str(caught.value)


def test_pretrained__weights_of_another_model(folder: Path) -> None:
    publish(nn.Linear(2, 2), folder / LITE_FILE)
    with pytest.raises(UserError, match="weights of another model: none of its tensors fit ssdlite"):
        load_pretrained(
            Detector(nn.Conv2d(1, 1, 1, bias=False).to(), *3 * [nn.Identity()]),
            LITE,
        )
