from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from as_torchvisions import AsTorchvisions
from tilewise.arrays import Array
from tilewise.bitmaps import Bitmaps
from tilewise.inference.export import trace, write_onnx
from tilewise.inference.onnx_backend import OnnxBackend
from tilewise.inference.torch_backend import TorchBackend
from tilewise.masks import MASKS, Masks, Outline
from tilewise.models import mask_rcnn
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.mask_targets import mask_targets
from tilewise.models.spec import DetectorSpec
from tilewise.rasters import rasterise
from tilewise.targets import Targets
from tilewise.views.view import Scaling
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import project_masks_on_boxes

RINGS = [
    [[10, 12], [40, 20], [30, 50], [8, 44]],
    [[50, 6], [62, 6], [62, 30], [50, 30]],
    [[66.5, 40.2], [90, 38], [92.5, 60], [70, 62]],
]


def make_detector(name: str) -> Detector:
    return build_detector(DetectorSpec(name, 2, Scaling(min_size=96, max_size=128), None, 0.05, 0.5, 20))


def make_targets(rings: list[Any], masks: bool = True) -> Targets[Tensor]:
    outlines = [Outline([np.array(ring, float)]) for ring in rings]
    packed = Masks.of(outlines if masks else [None] * len(rings)).crop((0, 0, 96, 96), (96, 96))
    boxes = Masks.of(outlines).boxes
    labels = np.arange(len(rings)) % 2
    targets: Targets[Array] = Targets(boxes, labels, np.zeros(len(rings), np.bool_), {MASKS: packed})
    return targets.to("cpu")


def noise(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, 96, 96), dtype=torch.uint8, generator=generator)


def in_view(targets: Targets[Tensor]) -> dict[str, Tensor]:
    """As torchvision takes them, with a bitmap of the whole view for each object."""
    bitmaps = [rasterise([np.array(ring, float)], 96, 96) for ring in RINGS[: len(targets)]]
    return {
        "boxes": targets.boxes,
        "labels": targets.labels + 1,
        "masks": torch.from_numpy(np.array(bitmaps)),
    }


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Detector]:
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    theirs = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_detections_per_img=20
    )
    ours = make_detector("maskrcnn_resnet50_fpn")
    ours.network.load_state_dict(theirs.state_dict())
    theirs.transform = AsTorchvisions(ours.transform)
    return theirs, ours


def test_mask_targets__are_torchvisions() -> None:
    targets = make_targets(RINGS)
    masks = targets.fields[MASKS]
    assert isinstance(masks, Bitmaps)
    generator = torch.Generator().manual_seed(0)
    objects = torch.randint(3, (60,), generator=generator)
    shifts = torch.randn(60, 4, generator=generator) * 6
    regions = (targets.boxes[objects] + shifts).clamp(0, 96)
    regions[:, 2:] = torch.maximum(regions[:, 2:], regions[:, :2] + 0.5).clamp(max=96)
    full = torch.from_numpy(np.array([rasterise([np.array(ring, float)], 96, 96) for ring in RINGS]))
    expected = project_masks_on_boxes(full, regions, objects, 28)
    sizes = torch.full((60, 2), 96)
    found = mask_targets(masks.select(objects), regions, sizes, side=28)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_mask_targets__of_an_object_longer_than_its_grid() -> None:
    ring = np.array([[20, 30], [500, 60], [430, 560], [60, 420]], float)
    packed = Masks.of([Outline([ring])]).crop((0, 0, 600, 600), (600, 600)).to("cpu")
    full = torch.from_numpy(rasterise([ring], 600, 600))[None]
    region = torch.tensor([[15.0, 22.0, 520.0, 570.0]])
    expected = project_masks_on_boxes(full, region, torch.tensor([0]), 28)
    found = mask_targets(packed, region, torch.tensor([[600, 600]]), side=28)
    assert float((found - expected).abs().mean()) < 0.005


def test_resnet50__same_losses_as_torchvision(pair: tuple[Any, Detector]) -> None:
    theirs, ours = pair
    images, targets = [noise(0), noise(1)], [make_targets(RINGS), make_targets(RINGS[:2])]
    with torch.no_grad():
        torch.manual_seed(3)
        found: Any = ours.train()(images, targets)
        # the same regions: what is drawn of them differs, so all are taken and their order is ours
        theirs.train()
        outputs: Any = ours.outputs(ours.transform(images), targets)
    assert set(found) == {
        "loss_classifier",
        "loss_box_reg",
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_mask",
    }
    from torchvision.models.detection.roi_heads import maskrcnn_loss

    masks, heads = outputs.masks, outputs.roi_heads
    counts = [len(each) for each in heads.regions]
    kept = [labels > 0 for labels in heads.sample.labels.split(counts)]
    regions = [each[rows] for each, rows in zip(heads.regions, kept, strict=True)]
    matched = [each[rows] for each, rows in zip(heads.sample.matches.split(counts), kept, strict=True)]
    truth = [in_view(each) for each in targets]
    with torch.no_grad():
        features = theirs.roi_heads.mask_roi_pool(outputs.features, regions, [(96, 96)] * 2)
        logits = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(features))
        torch.testing.assert_close(masks.logits, logits[:, 1:], rtol=1e-3, atol=1e-4)
        expected = maskrcnn_loss(
            logits, regions, [each["masks"] for each in truth], [each["labels"] for each in truth], matched
        )
        loss = ours.criterion(outputs, targets)["loss_mask"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_resnet50__same_masks_as_torchvision(pair: tuple[Any, Detector]) -> None:
    theirs, ours = pair
    ours.network.load_state_dict(theirs.state_dict())  # a training pass has moved the normalisation
    images = [noise(0), noise(1)]
    # in double precision: rounding would change the order of scores that are near each other
    theirs, ours = deepcopy(theirs).double().eval(), deepcopy(ours).double().eval()
    with torch.inference_mode():
        expected, found = theirs(images), ours.detect(images)
    for one, other in zip(expected, found, strict=True):
        assert len(one["scores"]) == len(other) > 5
        torch.testing.assert_close(
            torch.from_numpy(other.boxes), one["boxes"], rtol=1e-4, atol=1e-3, check_dtype=False
        )
        masks = other.fields[MASKS]
        assert isinstance(masks, Bitmaps) and masks.values.shape == (len(other), 28, 28)
        difference = torch.from_numpy(masks.values).float() / 255 - one["masks"][:, 0]
        assert float(difference.abs().max()) < 0.004  # eight bits


@pytest.mark.parametrize("most", [20, 3])
def test_graphs__say_what_the_detector_says(most: int, tmp_path: Path) -> None:
    """Of views of any size, also of one that shows nothing; suppression in the graph is suppression."""
    torch.manual_seed(0)
    scaling = Scaling(min_size=96, max_size=128)
    spec = DetectorSpec("maskrcnn_resnet18_fpn", 2, scaling, None, 0.05, 0.5, most)
    detector: Any = build_detector(spec).eval()
    write_onnx(detector, scaling, tmp_path / "model.onnx")
    backends = (
        OnnxBackend(tmp_path / "model.onnx", spec.limits(), 1),
        TorchBackend(detector, graph=trace(detector, scaling)),
    )
    for seed, (height, width) in enumerate(((96, 128), (128, 96), (96, 96))):
        view = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
        with torch.inference_mode():
            (expected,) = detector.detect([torch.from_numpy(view)])
        assert len(expected) == most
        for backend in backends:
            (found,) = backend.detect([view])
            assert found.labels.tolist() == expected.labels.tolist()
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)
            masks, wanted = found.fields[MASKS], expected.fields[MASKS]
            assert isinstance(masks, Bitmaps) and isinstance(wanted, Bitmaps)
            assert np.abs(masks.values.astype(int) - wanted.values).max() <= 2
    layer: Any = detector.network.roi_heads.box_predictor.cls_score
    with torch.no_grad():
        layer.bias[0] = 100  # all is background
    write_onnx(detector, scaling, tmp_path / "model.onnx")
    backend = OnnxBackend(tmp_path / "model.onnx", spec.limits(), 1)
    assert [len(found) for found in backend.detect([np.zeros((3, 96, 128), np.uint8)])] == [0]


def test_graphs__of_any_number_of_detections(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scaling = Scaling(min_size=96, max_size=128)
    spec = DetectorSpec("maskrcnn_resnet18_fpn", 2, scaling, None, 0.05, 0.5, 1000)
    detector: Any = build_detector(spec).eval()
    write_onnx(detector, scaling, tmp_path / "model.onnx")
    views = [noise(0).numpy(), noise(1).numpy()[:, :, :64], np.zeros((3, 96, 128), np.uint8)]
    for backend in (
        OnnxBackend(tmp_path / "model.onnx", spec.limits(), 1),
        TorchBackend(detector, graph=trace(detector, scaling)),
    ):
        found = [backend.detect([view])[0] for view in views]
        assert len({len(each) for each in found}) == len(views)
        for each in found:
            masks = each.fields[MASKS]
            assert isinstance(masks, Bitmaps) and len(masks.values) == len(each)


def test_masks__in_parts_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    detector = make_detector("maskrcnn_resnet18_fpn").eval()
    images = [noise(0), noise(1)]
    with torch.inference_mode():
        whole = detector.detect(images)
        monkeypatch.setattr(mask_rcnn, "MOST_REGIONS", 7)
        parts = detector.detect(images)
    for one, other in zip(whole, parts, strict=True):
        first, second = one.fields[MASKS], other.fields[MASKS]
        assert isinstance(first, Bitmaps) and isinstance(second, Bitmaps)
        assert len(first.values) == len(one) > 7
        assert np.abs(first.values.astype(int) - second.values).max() <= 1


def test_objects_without_masks__teach_boxes_only() -> None:
    torch.manual_seed(0)
    detector = make_detector("maskrcnn_resnet18_fpn").train()
    images = [noise(0), noise(1)]
    none = Targets.none().to("cpu")
    with torch.no_grad():
        losses: Any = detector(images, [make_targets(RINGS, masks=False), none])
        both: Any = detector(images, [make_targets(RINGS), none])
    assert float(losses["loss_mask"]) == 0 and float(losses["loss_box_reg"]) > 0
    assert float(both["loss_mask"]) > 0
    nothing: Any = detector(images, [none, none])
    assert float(nothing["loss_mask"].detach()) == 0
    sum(nothing.values()).backward()


def test_ignored_objects__do_not_shift_the_masks_of_others() -> None:
    torch.manual_seed(0)
    detector = make_detector("maskrcnn_resnet18_fpn").train()
    targets = make_targets(RINGS)
    ignoring = Targets(
        targets.boxes, targets.labels, torch.tensor([True, False, False]), dict(targets.fields)
    )
    outputs: Any = detector.outputs(detector.transform([noise(0)]), [ignoring])
    alone: Any = targets.select(slice(1, 3))
    found = [float(detector.criterion(outputs, [each])["loss_mask"].detach()) for each in (ignoring, alone)]
    assert found[0] == pytest.approx(found[1]) and found[0] > 0


@pytest.mark.parametrize(("depth", "parameters"), [(18, 31_376_113), (34, 41_476_849), (50, 44_401_393)])
def test_parameters__are_those_of_torchvisions_construction(depth: int, parameters: int) -> None:
    spec = DetectorSpec(
        f"maskrcnn_resnet{depth}_fpn", 90, Scaling(min_size=96, max_size=128), None, 0.05, 0.5, 20
    )
    with torch.device("meta"):
        network = build_detector(spec).network
    # torchvision's default construction has frozen normalisation, whose numbers are no parameters
    norms = sum(
        each.numel()
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
        for each in module.parameters()
    )
    assert sum(each.numel() for each in network.parameters()) - norms == parameters
