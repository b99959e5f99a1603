from __future__ import annotations

from typing import Any

import pytest
import torch
from tilewise.instances import Instances
from tilewise.models.anchor_generators import DefaultBoxes
from tilewise.models.anchor_network import AnchorOutputs
from tilewise.models.one_stage import FCOSPostprocess, RetinaNetPostprocess
from tilewise.models.postprocess import best_scores, clip, detections_of
from tilewise.models.ssd import SSDPostprocess
from tilewise.suppression import Limits
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS as TorchvisionFCOS
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.ssd import SSD as TorchvisionSSD

SIZES = [(96, 128), (80, 100), (128, 90)]
CLASSES = 5


def random_anchors(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 90
    return torch.cat([corner, corner + 8 + 30 * torch.rand(count, 2, generator=generator)], dim=1)


def thresholds(limits: Limits) -> dict[str, Any]:
    """The same as torchvision's constructors call them."""
    names = ("score_thresh", "nms_thresh", "topk_candidates", "detections_per_img")
    return dict(zip(names, limits, strict=True))


def check_equal(ours: list[Instances], theirs: list[dict[str, Tensor]], first_label: int = 0) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert len(other["scores"]) >= 10
        assert (one.labels + first_label).tolist() == other["labels"].tolist()
        torch.testing.assert_close(torch.from_numpy(one.scores), other["scores"])
        torch.testing.assert_close(torch.from_numpy(one.boxes), other["boxes"])


@pytest.mark.parametrize("limits", [Limits(0.5, 0.4, 1000, 300), Limits(0.05, 0.4, 40, 10)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(RetinaNetPostprocess, TorchvisionRetinaNet), (FCOSPostprocess, TorchvisionFCOS)],
    ids=["retinanet", "fcos"],
)
def test_one_stage__equals_torchvisions(ours: Any, theirs: Any, limits: Limits) -> None:
    levels = (200, 50)
    generator = torch.Generator().manual_seed(0)
    by_level = {
        key: [torch.randn(3, count, width, generator=generator) for count in levels]
        for key, width in {"cls_logits": CLASSES, "bbox_regression": 4, "bbox_ctrness": 1}.items()
    }
    anchors = [random_anchors(count, seed) for seed, count in enumerate(levels)]
    heads = {key: torch.cat(parts, dim=1) for key, parts in by_level.items()}
    backbone = nn.Identity()
    backbone.out_channels = 32  # type: ignore[assignment]
    network = theirs(backbone, CLASSES, **thresholds(limits))
    candidates = ours(limits)(AnchorOutputs({}, heads, tuple(anchors)), SIZES)
    found = detections_of(candidates, limits)
    check_equal(found, network.postprocess_detections(by_level, [anchors] * 3, SIZES))


@pytest.mark.parametrize("limits", [Limits(0.3, 0.4, 400, 300), Limits(0.01, 0.4, 20, 10)])
def test_ssd__equals_torchvisions(limits: Limits) -> None:
    generator = torch.Generator().manual_seed(0)
    heads = {
        "cls_logits": 2 * torch.randn(3, 300, CLASSES + 1, generator=generator),
        "bbox_regression": torch.randn(3, 300, 4, generator=generator),
    }
    anchors, nothing = random_anchors(300, 0), nn.Identity()
    network = TorchvisionSSD(
        nothing, DefaultBoxes([[2]]), (96, 96), CLASSES + 1, head=nothing, **thresholds(limits)
    )
    candidates = SSDPostprocess(limits)(AnchorOutputs({}, heads, (anchors[:200], anchors[200:])), SIZES)
    found = detections_of(candidates, limits)
    check_equal(found, network.postprocess_detections(heads, [anchors] * 3, SIZES), first_label=1)


def test_best_scores__of_a_view_and_of_a_class() -> None:
    scores = torch.tensor([[[0.9, 0.2], [0.8, 0.7]], [[0.1, 0.3], [0.0, 0.05]]])
    best = best_scores(scores, 2)
    assert (best.priors.tolist(), best.classes.tolist()) == ([[0, 1], [0, 0]], [[0, 0], [1, 0]])
    torch.testing.assert_close(best.scores, torch.tensor([[0.9, 0.8], [0.3, 0.1]]))
    of_a_class = best_scores(scores, 1, by_class=True)
    assert (of_a_class.priors.tolist(), of_a_class.classes.tolist()) == ([[0, 1], [0, 0]], [[0, 1]] * 2)
    values = torch.arange(8).view(2, 2, 2)
    assert of_a_class.of(values).tolist() == [[[0, 1], [2, 3]], [[4, 5], [4, 5]]]
    assert of_a_class.of(values[..., 0]).tolist() == [[0, 2], [4, 4]]
    assert best_scores(scores, 100).scores.shape == (2, 4)


def test_clip__at_each_views_border() -> None:
    boxes = torch.tensor([[[-5.0, -5, 10, 10], [90, 40, 130, 70]]] * 2)
    assert clip(boxes, [(60, 100), (50, 95)]).tolist() == [
        [[0, 0, 10, 10], [90, 40, 100, 60]],
        [[0, 0, 10, 10], [90, 40, 95, 50]],
    ]
