from __future__ import annotations

from typing import Any

import pytest
import torch
from as_torchvisions import AsTorchvisions
from tilewise.instances import Instances
from tilewise.models.box_learning import BoxLearning
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.faster_rcnn import FasterRCNNOutputs, FasterRCNNPostprocess
from tilewise.models.postprocess import detections_of
from tilewise.models.roi_heads import RegionOutputs, RoIHeads, region_losses
from tilewise.models.rpn import RPN, AnchorSample, Sampler, draw, rpn_losses
from tilewise.models.spec import DetectorSpec
from tilewise.suppression import Limits
from tilewise.targets import Targets
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork


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
        targets=Targets(
            torch.tensor(boxes).reshape(-1, 4),
            torch.zeros(len(boxes), dtype=torch.int64),
            torch.tensor(ignored, dtype=torch.bool),
        ),
    )


def test_resnet50__is_torchvisions() -> None:
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    ours = make_detector("fasterrcnn_resnet50_fpn")
    ours.network.load_state_dict(theirs.state_dict())
    theirs.transform = AsTorchvisions(ours.transform)
    images = [noise(64, 96), noise(60, 64, seed=1)]
    # in double precision: rounding would change the order of scores that are near each other
    theirs, ours = theirs.double().eval(), ours.double().eval()
    with torch.inference_mode():
        expected, found = theirs(images), ours.detect(images)
    for one, other in zip(expected, found, strict=True):
        assert len(one["scores"]) > 10
        assert (other.labels + 1).tolist() == one["labels"].tolist()
        for name in ("boxes", "scores"):
            # RoIAlign adds up in another order
            torch.testing.assert_close(
                torch.from_numpy(getattr(other, name)), one[name], rtol=1e-4, atol=1e-4, check_dtype=False
            )


def test_resnet50__its_first_weights_are_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).state_dict()
    torch.manual_seed(0)
    ours = make_detector("fasterrcnn_resnet50_fpn").network.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


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
    regions, sample = heads.draw_sample([proposals], [target])
    rows = sorted(zip(regions[0].tolist(), sample.labels.tolist(), strict=True))
    assert rows == [([0, 0, 10, 9], 2), ([0, 0, 10, 10], 2), ([80, 80, 90, 90], 0)]


def random_boxes(count: int, seed: int) -> Tensor:
    """Of a view of 96 x 96; some have no area once they are clipped to it."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 110 - 10
    return torch.cat([corner, corner + 1 + 30 * torch.rand(count, 2, generator=generator)], dim=1)


def test_proposals__are_torchvisions(small: Detector) -> None:
    rpn = small.network.rpn
    assert isinstance(rpn, RPN)
    levels = [400, 100, 30]
    proposals = random_boxes(2 * sum(levels), 0).view(2, -1, 4)
    objectness = torch.randn(2 * sum(levels), 1, generator=torch.Generator().manual_seed(1))
    arguments = proposals, objectness, [(96, 96), (80, 64)], levels
    found = rpn.filter_proposals(*arguments)
    expected = RegionProposalNetwork.filter_proposals(rpn, *arguments)
    for one, other in zip(found, expected, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            assert len(theirs) > 50
            torch.testing.assert_close(ours, theirs)


def test_sampler__draws_as_torchvisions_does() -> None:
    sampler = Sampler(batch_size_per_image=10, positive_fraction=0.4)
    generator = torch.Generator().manual_seed(0)
    few, many = torch.zeros(50), (3 * torch.rand(50, generator=generator)).floor() - 1
    few[3], few[4:] = 1, -1
    none = torch.full((50,), -1.0)
    objects, background = sampler([few, many, none])
    for labels, one, other in zip((few, many, none), objects, background, strict=True):
        assert one.dtype == torch.bool and (labels[one] >= 1).all() and (labels[other] == 0).all()
    assert [int(each.sum()) for each in objects] == [1, 4, 0]
    assert [int(each.sum()) for each in background] == [3, 6, 0]


def test_draw__takes_each_alike() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([True, False, True, True, True])
    times = torch.stack([draw(mask, 3, torch.tensor(2)) for _ in range(4000)]).sum(dim=0)
    assert times[1] == 0
    assert (times[mask] - 2000).abs().max() < 150  # nearly five standard deviations


class Fixed:
    """A sampler that is not random: what it draws of each image is given."""

    def __init__(self, objects: list[Tensor], background: list[Tensor]):
        self.drawn = objects, background

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return self.drawn


def test_rpn_loss__is_torchvisions(small: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    rpn = small.network.rpn
    assert isinstance(rpn, RPN)
    generator = torch.Generator().manual_seed(0)
    labels = [(3 * torch.rand(60, generator=generator)).floor() - 1 for _ in range(2)]
    objects, background = [each == 1 for each in labels], [each == 0 for each in labels]
    monkeypatch.setattr(rpn, "fg_bg_sampler", Fixed(objects, background))
    wanted = [torch.randn(60, 4, generator=generator) for _ in range(2)]
    wanted[0][labels[0] != 1] = -torch.inf  # as of an image without objects
    sample = AnchorSample(*map(torch.cat, (objects, background, labels, wanted)))
    gradients = []
    for theirs in (False, True):
        objectness = torch.linspace(-3, 3, 120)[:, None].requires_grad_()
        deltas = torch.linspace(-1, 1, 480).view(120, 4).detach().requires_grad_()
        losses = (
            RegionProposalNetwork.compute_loss(rpn, objectness, deltas, labels, wanted)
            if theirs
            else tuple(rpn_losses(objectness, deltas, sample).values())
        )
        torch.stack(losses).sum().backward()
        gradients.append([*(loss.detach() for loss in losses), objectness.grad, deltas.grad])
    torch.testing.assert_close(gradients[0], gradients[1])


def torchvisions_heads(score_threshold: float = 0.05) -> Any:
    """Its second stage, of which these tests ask nothing that has weights."""
    return TorchvisionRoIHeads(
        *3 * [nn.Identity()],
        0.5,
        0.5,
        512,
        0.25,
        None,
        score_threshold,
        nms_thresh=0.5,
        detections_per_img=100,
    )


def test_regions__to_learn_from_are_torchvisions(small: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, theirs = small.network.roi_heads, torchvisions_heads()
    assert isinstance(heads, RoIHeads)
    proposals = [random_boxes(40, 1), random_boxes(30, 2)]
    targets = [
        {"boxes": random_boxes(3, 3), "labels": torch.tensor([1, 2, 1]), "ignored": torch.zeros(0, 4)},
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "ignored": torch.zeros(0, 4),
        },
    ]
    objects = [torch.arange(43) >= 40, torch.zeros(30, dtype=torch.bool)]
    fixed = Fixed(objects, [torch.arange(43) < 9, torch.arange(30) % 2 == 0])
    monkeypatch.setattr(heads, "sampler", fixed)
    theirs.fg_bg_sampler = fixed
    found, sample = heads.draw_sample(proposals, targets)
    regions, matches, labels, wanted = theirs.select_training_samples(list(proposals), targets)
    torch.testing.assert_close(found, regions)
    torch.testing.assert_close(tuple(sample)[:3], tuple(map(torch.cat, (matches, labels, wanted))))
    results = []
    for loss in (region_losses, fastrcnn_loss):
        logits = torch.linspace(-3, 3, 3 * len(sample.labels)).view(-1, 3).detach().requires_grad_()
        regression = torch.linspace(-1, 1, 12 * len(sample.labels)).view(-1, 12).detach().requires_grad_()
        if loss is region_losses:
            losses = region_losses(logits, regression, sample, learning=BoxLearning())
        else:
            losses = fastrcnn_loss(logits, regression, labels, wanted)
        values = tuple(losses.values()) if isinstance(losses, dict) else losses
        torch.stack(values).sum().backward()
        results.append([*(each.detach() for each in values), logits.grad, regression.grad])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("threshold", [0.05, 0.9999])
def test_detections__are_torchvisions(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    proposals = [random_boxes(120, 1), random_boxes(0, 1), random_boxes(80, 2)]
    logits = 2 * torch.randn(200, 3, generator=generator)
    regression = torch.randn(200, 12, generator=generator)
    sizes = [(96, 96), (50, 50), (80, 64)]
    postprocess = FasterRCNNPostprocess(Limits(threshold, 0.5, 1000, 100))
    first: Any = None
    candidates = postprocess(
        FasterRCNNOutputs({}, first, RegionOutputs(proposals, logits, regression, None)), sizes
    )
    found = detections_of(candidates, postprocess.limits)
    theirs = torchvisions_heads(threshold)
    expected = theirs.postprocess_detections(logits, regression, proposals, sizes)
    for one, boxes, scores, labels in zip(found, *expected, strict=True):
        ours = torch.from_numpy(one.boxes), torch.from_numpy(one.scores)
        torch.testing.assert_close(ours, (boxes, scores))
        assert (one.labels + 1).tolist() == labels.tolist()
    assert [len(each) > 20 for each in found] == [threshold < 0.5, False, threshold < 0.5]


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
    losses = small([sample.pixels] * 2, [sample.targets] * 2)
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
    losses = detector([sample.pixels] * 2, [sample.targets] * 2)
    assert isinstance(losses, dict)
    assert all(loss.isfinite() for loss in losses.values())
    with torch.inference_mode():
        found = detector.eval().detect([sample.pixels])
    assert isinstance(found[0], Instances)


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
        detector: Any = build_detector(spec)
    assert detector.postprocess.limits.detections == 900
    assert detector.network.rpn._post_nms_top_n["testing"] == 1800
