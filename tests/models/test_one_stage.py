from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ground_truth import make_targets
from tilewise.models.anchor_network import AnchorOutputs
from tilewise.models.box_learning import BoxLearning
from tilewise.models.build import anchor_sizes_for, build_detector
from tilewise.models.detector import Criterion
from tilewise.models.matching import split_ignored
from tilewise.models.one_stage import FCOSCriterion, RetinaNetCriterion, match_points
from tilewise.models.spec import DetectorSpec
from tilewise.views.view import Scaling
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS as TorchvisionFCOS
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet

LEVELS = [64, 16]  # points of two feature maps with strides of 8 and 16 pixels, on a view of 64


def make_network(name: str, anchor_sizes: tuple[float, ...] | None = None) -> nn.Module:
    """A network without weights."""
    spec = DetectorSpec(name, 2, Scaling(min_size=64, max_size=64), anchor_sizes, 0.05, 0.5, 300)
    with torch.device("meta"):
        return build_detector(spec).network


def points() -> Tensor:
    """FCOS's anchors: squares of a stride's side, centred on its grid."""
    anchors = []
    for stride in (8, 16):
        y, x = torch.meshgrid(torch.arange(0, 64, stride), torch.arange(0, 64, stride), indexing="ij")
        centre = torch.stack([x, y], dim=2).reshape(-1, 2) + stride / 2
        anchors.append(torch.cat([centre - stride / 2, centre + stride / 2], dim=1))
    return torch.cat(anchors)


def make_outputs(images: int) -> AnchorOutputs:
    generator = torch.Generator().manual_seed(0)
    widths = {"cls_logits": 2, "bbox_regression": 4, "bbox_ctrness": 1}
    heads = {
        name: torch.rand(images, sum(LEVELS), width, generator=generator).requires_grad_()
        for name, width in widths.items()
    }
    return AnchorOutputs({}, heads, points().split(LEVELS))


def torchvisions(kind: Any, **given: Any) -> Any:
    """Its loss, which has no weights."""
    backbone = nn.Identity()
    backbone.out_channels = 32  # type: ignore[assignment]
    return kind(backbone, 2, **given)


PLAIN = [make_targets([[7, 7, 17, 18], [30, 30, 50, 48]], [1, 0], []), make_targets([], [], [])]
CROWD = [make_targets([[7, 7, 17, 18]], [1], [[32, 32, 64, 64]])]


def test_retinanet_loss__equals_torchvisions_where_nothing_is_ignored() -> None:
    outputs, network = make_outputs(2), torchvisions(TorchvisionRetinaNet)
    ours = RetinaNetCriterion()(outputs, PLAIN)
    theirs = network.compute_loss(split_ignored(PLAIN), outputs.heads, [points()] * 2)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


def test_fcos_loss__equals_torchvisions_where_nothing_is_ignored() -> None:
    outputs, network = make_outputs(2), torchvisions(TorchvisionFCOS)
    ours = FCOSCriterion()(outputs, PLAIN)
    theirs = network.compute_loss(split_ignored(PLAIN), outputs.heads, [points()] * 2, LEVELS)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


@pytest.mark.parametrize("seed", range(5))
def test_fcos_points__are_matched_as_torchvisions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = (64 * torch.rand(40, 2, generator=generator)).round()  # so that some areas are the same
    boxes = torch.cat([corner, corner + 2 + (60 * torch.rand(40, 2, generator=generator)).round()], dim=1)
    network, seen = torchvisions(TorchvisionFCOS), []
    network.head.compute_loss = lambda targets, outputs, anchors, matches: seen.extend(matches)
    network.compute_loss([{"boxes": boxes}], {}, [points()], LEVELS)
    assert 10 < (seen[0] >= 0).sum() < len(points())
    assert torch.equal(match_points(points().split(LEVELS), boxes), seen[0])


def silent_anchors(logits: Tensor) -> list[list[float]]:
    """The anchors that the classification loss gave no gradient."""
    assert logits.grad is not None
    rows: list[list[float]] = points()[(logits.grad[0] == 0).all(dim=1)].tolist()
    return rows


IN_THE_CROWD = [box for box in points().tolist() if box[0] >= 32 and box[1] >= 32]


def test_retinanet_loss__teaches_anchors_on_ignored_boxes_nothing() -> None:
    outputs = make_outputs(1)
    RetinaNetCriterion()(outputs, CROWD)["classification"].backward()
    # between the thresholds of the matcher an anchor is not taught either: one such overlaps the object
    silent = silent_anchors(outputs.heads["cls_logits"])
    assert [box for box in silent if box[0] >= 32] == IN_THE_CROWD


def test_fcos_loss__teaches_points_on_ignored_boxes_nothing() -> None:
    outputs = make_outputs(1)
    FCOSCriterion()(outputs, CROWD)["classification"].backward()
    assert silent_anchors(outputs.heads["cls_logits"]) == IN_THE_CROWD


def test_fcos_loss__leaves_an_object_that_lies_in_an_ignored_box_an_object() -> None:
    outputs, criterion = make_outputs(1), FCOSCriterion()
    plain = criterion(outputs, [make_targets([[39, 39, 49, 49]], [1], [])])
    losses = criterion(outputs, [make_targets([[39, 39, 49, 49]], [1], [[32, 32, 64, 64]])])
    assert losses["bbox_regression"] == plain["bbox_regression"] != 0
    assert losses["bbox_ctrness"] == plain["bbox_ctrness"] != 0
    losses["classification"].backward()
    object_points = [[40, 40, 48, 48]]
    assert not [box for box in silent_anchors(outputs.heads["cls_logits"]) if box in object_points]


def test_fcos_loss__rfla_teaches_a_point_beside_its_object_on_an_ignored_box() -> None:
    criterion = FCOSCriterion({8: 64, 16: 128})
    criterion.learning = BoxLearning(assignment="rfla")
    outputs = make_outputs(1)
    targets = make_targets([[33, 33, 38, 38]], [1], [[0, 0, 64, 64]])
    criterion(outputs, [targets])["classification"].backward()
    found = criterion._match(outputs.anchors, torch.tensor([[33.0, 33, 38, 38]])) >= 0
    centres = (points()[:, :2] + points()[:, 2:]) / 2
    beside = found & ((centres < 33) | (centres > 38)).any(dim=1)
    gradient = outputs.heads["cls_logits"].grad
    assert beside.any() and gradient is not None and (gradient[0, found, 1] < 0).all()
    assert (gradient[0, ~found] == 0).all()


@pytest.mark.parametrize("criterion", [RetinaNetCriterion(), FCOSCriterion()], ids=["retinanet", "fcos"])
@pytest.mark.parametrize("ignored", [[], [[-99.0, -99, 199, 199]]], ids=["empty", "all ignored"])
def test_loss__of_an_image_without_objects_is_finite(
    criterion: Criterion, ignored: list[list[float]]
) -> None:
    losses = criterion(make_outputs(1), [make_targets([], [], ignored)])
    assert all(loss.isfinite() for loss in losses.values())
    assert bool(losses["classification"] > 1e-6) == (not ignored)


def test_retinanet_anchors__have_three_sizes_an_octave() -> None:
    network: Any = make_network("retinanet_resnet50_fpn", (8.0, 16.0, 32.0, 64.0, 128.0))
    sizes = network.anchor_generator.sizes
    assert len(sizes) == 5
    assert sizes[1] == pytest.approx((16, 20.16, 25.40), abs=0.01)


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_stride_4_level__is_one_more_in_front(name: str) -> None:
    scaling = Scaling(min_size=64, max_size=64)
    spec = DetectorSpec(name, 2, scaling, None, 0.05, 0.5, 300, stride_4_level=True)
    with torch.device("meta"):
        network: Any = build_detector(spec).network.eval()
        maps = list(network.backbone(torch.zeros(1, 3, 64, 64)).values())
        heads = network.head(maps)
    assert [each.shape[2] for each in maps] == [16, 8, 4, 2, 1, 1]
    shapes = [torch.zeros(1).expand(each.shape) for each in maps]
    anchors = torch.cat(network.anchor_generator.by_level(torch.zeros(1, 3, 64, 64), shapes))
    assert heads["cls_logits"].shape[1] == len(anchors)
    side = (anchors[0, 2:] - anchors[0, :2]).prod().sqrt()
    assert float(side) == pytest.approx(16 if name.startswith("retina") else 4, rel=0.05)


def test_stride_4_level__fitted_anchors_have_one_size_more() -> None:
    scaling, sizes = Scaling(min_size=600, max_size=1333), np.full(9, 8.0)
    assert anchor_sizes_for("retinanet_resnet50_fpn", scaling, sizes, stride_4_level=True) == (
        8,
        16,
        32,
        64,
        128,
        256,
    )
    # a map at stride 4 has anchors of 16 px: the published ones go on from there
    assert anchor_sizes_for("retinanet_resnet50_fpn", scaling, np.full(9, 16.0), stride_4_level=True) is None
