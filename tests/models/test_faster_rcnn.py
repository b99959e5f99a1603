from __future__ import annotations

from typing import Any

import pytest
import torch
from tilewise.detections import Detections
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.faster_rcnn import RPN, RoIHeads
from tilewise.models.spec import DetectorSpec
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn


@pytest.fixture(autouse=True)
def _fast() -> None:
    torch.set_flush_denormal(True)


def make_detector(name: str, anchor_sizes: tuple[float, ...] | None = None) -> Detector:
    spec = DetectorSpec(name, 2, Scaling(min_size=96, max_size=128), anchor_sizes, 0.05, 0.5, 100)
    return build_detector(spec)


@pytest.fixture(scope="module")
def small() -> Detector:
    torch.manual_seed(0)
    detector = make_detector("fasterrcnn_resnet18_fpn")
    rpn: Any = detector.network.rpn
    rpn._pre_nms_top_n = {"training": 50, "testing": 50}
    return detector


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


def make_sample(boxes: list[list[float]], ignored: list[bool]) -> Sample:
    return Sample(
        pixels=noise(96, 96),
        boxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        ignored=torch.tensor(ignored, dtype=torch.bool),
    )


def test_resnet50__is_torchvisions() -> None:
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    ours = make_detector("fasterrcnn_resnet50_fpn").network
    ours.load_state_dict(theirs.state_dict())
    theirs.transform = ours.transform
    images = [noise(64, 96), noise(60, 64, seed=1)]
    with torch.inference_mode():
        expected, found = theirs.eval()(images), ours.eval()(images)
    for one, other in zip(expected, found, strict=True):
        assert len(one["scores"]) > 10
        for name, value in one.items():
            # RoIAlign adds up in another order
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-4)


def test_rpn__leaves_anchors_on_ignored_boxes_out(small: Detector) -> None:
    rpn = small.network.rpn
    assert isinstance(rpn, RPN)
    anchors = torch.tensor([[0, 0, 10, 10], [40, 40, 50, 50], [42, 42, 52, 52], [80, 80, 90, 90.0]])
    empty = torch.zeros(0, 4)
    crowd = torch.tensor([[38, 38, 60, 60.0]])
    targets = [
        {"boxes": anchors[:1], "ignored": crowd},
        {"boxes": empty, "ignored": crowd},
        {"boxes": anchors[1:2], "ignored": crowd},
        {"boxes": empty, "ignored": empty},
    ]
    labels, _ = rpn.assign_targets_to_anchors([anchors] * 4, targets)
    assert [label.tolist() for label in labels] == [
        [1, -1, -1, 0],
        [0, -1, -1, 0],
        [0, 1, -1, 0],  # an object on the crowd is an object
        [0, 0, 0, 0],
    ]


def test_roi_heads__leave_proposals_on_ignored_boxes_out(small: Detector) -> None:
    heads = small.network.roi_heads
    assert isinstance(heads, RoIHeads)
    proposals = torch.tensor([[0, 0, 10, 10], [40, 40, 50, 50], [42, 42, 52, 52], [80, 80, 90, 90.0]])
    target = {
        "boxes": torch.tensor([[0, 0, 10, 9.0]]),
        "labels": torch.tensor([2]),
        "ignored": torch.tensor([[38, 38, 60, 60.0]]),
    }
    sampled, _, labels, _ = heads.select_training_samples([proposals], [target])
    rows = sorted(zip(sampled[0].tolist(), labels[0].tolist(), strict=True))
    assert rows == [([0, 0, 10, 9], 2), ([0, 0, 10, 10], 2), ([80, 80, 90, 90], 0)]


@pytest.mark.parametrize(
    ("boxes", "ignored"),
    [
        ([], []),
        ([[20.0, 20, 40, 40]], [False]),
        ([[20.0, 20, 40, 40], [50, 50, 90, 90]], [False, True]),
        ([[-200.0, -200, 300, 300]], [True]),
    ],
    ids=["none", "object", "object and ignored", "all ignored"],
)
def test_training__has_finite_losses_and_gradients(
    small: Detector, boxes: list[list[float]], ignored: list[bool]
) -> None:
    sample = make_sample(boxes, ignored)
    small.train().zero_grad()
    losses = small([sample.pixels] * 2, [sample] * 2)
    assert isinstance(losses, dict)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    torch.stack(list(losses.values())).sum().backward()
    gradients = [p.grad for p in small.parameters() if p.grad is not None]
    assert all(loss.isfinite() for loss in losses.values())
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (losses["loss_objectness"] > 0) == (ignored != [True])


def test_mobilenet__trains_and_detects() -> None:
    detector = make_detector("fasterrcnn_mobilenet_v3_large_fpn")
    sample = make_sample([[20.0, 20, 40, 40]], [False])
    losses = detector([sample.pixels] * 2, [sample] * 2)
    assert isinstance(losses, dict)
    assert all(loss.isfinite() for loss in losses.values())
    with torch.inference_mode():
        found = detector.eval().detect([sample.pixels])
    assert isinstance(found[0], Detections)


def test_anchors__fitted_take_the_place_of_the_published() -> None:
    sizes = (8.0, 16.0, 32.0, 64.0, 128.0)
    with torch.device("meta"):
        resnet: Any = make_detector("fasterrcnn_resnet18_fpn", sizes).network
        mobilenet: Any = make_detector("fasterrcnn_mobilenet_v3_large_fpn", sizes).network
    assert resnet.rpn.anchor_generator.sizes == tuple((size,) for size in sizes)
    assert mobilenet.rpn.anchor_generator.sizes == (sizes,) * 3


def test_detections__may_be_more_than_torchvisions_thousand_proposals() -> None:
    spec = DetectorSpec("fasterrcnn_resnet18_fpn", 1, Scaling(min_size=96, max_size=96), None, 0.05, 0.5, 900)
    with torch.device("meta"):
        network: Any = build_detector(spec).network
    assert network.roi_heads.detections_per_img == 900
    assert network.rpn._post_nms_top_n["testing"] == 1800
