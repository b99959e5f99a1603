from __future__ import annotations

from typing import Any

import pytest
import torch
from tilewise.instances import Instances
from tilewise.models import postprocess
from tilewise.models.anchor_generators import DefaultBoxes
from tilewise.models.anchor_network import AnchorOutputs
from tilewise.models.one_stage import FCOSPostprocess, RetinaNetPostprocess
from tilewise.models.postprocess import Candidates, Limits, best_of_each_group, candidates_of, suppress
from tilewise.models.ssd import SSDPostprocess
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS as TorchvisionFCOS
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.ssd import SSD as TorchvisionSSD
from torchvision.ops import batched_nms

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
        torch.testing.assert_close(one.scores, other["scores"])
        torch.testing.assert_close(one.boxes, other["boxes"])


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
    found = ours(limits)(AnchorOutputs({}, heads, tuple(anchors)), SIZES)
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
    found = SSDPostprocess(limits)(AnchorOutputs({}, heads, (anchors[:200], anchors[200:])), SIZES)
    check_equal(found, network.postprocess_detections(heads, [anchors] * 3, SIZES), first_label=1)


def test_best_of_each_group__by_group_then_from_the_best() -> None:
    scores = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.3, 0.9])
    groups = torch.tensor([2, 0, 2, 2, 5, 0])
    assert best_of_each_group(scores, groups, 2).tolist() == [1, 5, 3, 2, 4]
    assert best_of_each_group(scores, groups, 1).tolist() == [1, 3, 4]
    assert best_of_each_group(scores[:0], groups[:0], 2).tolist() == []


def test_candidates__of_an_image_and_of_a_class() -> None:
    scores = torch.tensor([[[0.9, 0.2], [0.8, 0.7]], [[0.1, 0.3], [0.0, 0.0]]])
    found = candidates_of(scores, 0.15, most=2)
    assert found.images.tolist() == [0, 0, 1]
    assert (found.priors.tolist(), found.classes.tolist()) == ([0, 1, 0], [0, 0, 1])
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.3]))
    of_a_class = candidates_of(scores, 0.15, most=1, by_class=True)
    assert of_a_class.images.tolist() == [0, 0, 1]
    assert (of_a_class.priors.tolist(), of_a_class.classes.tolist()) == ([0, 1, 0], [0, 1, 1])


def many(seed: int, images: int, count: int) -> tuple[Candidates, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 3900
    boxes = torch.cat([corner, corner + 8 + 60 * torch.rand(count, 2, generator=generator)], dim=1)
    found = Candidates(
        torch.randint(images, (count,), generator=generator),
        torch.arange(count),
        torch.randint(7, (count,), generator=generator),
        torch.rand(count, generator=generator),
    )
    return found, boxes


@pytest.mark.parametrize("piece", [1, 100, 10_000])
def test_suppress__equals_batched_nms_of_each_image(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postprocess.NMS_BOXES, "cpu", piece)
    found, boxes = many(0, images=4, count=900)
    found = found._replace(images=found.images + (found.images >= 2))  # the third image of five has none
    boxes[::2] = boxes[1::2] + torch.rand(450, 4, generator=torch.Generator().manual_seed(1)) * 9
    kept = suppress([found], [boxes], [(4000, 4000)] * 5, Limits(0.0, 0.5, 1000, 1000))
    for image, result in enumerate(kept):
        own = found.images == image
        keep = batched_nms(boxes[own], found.scores[own], found.classes[own], 0.5)
        torch.testing.assert_close(result.boxes, boxes[own][keep])
        torch.testing.assert_close(result.scores, found.scores[own][keep])
        assert result.labels.tolist() == found.classes[own][keep].tolist()
    assert [len(result.scores) > 0 for result in kept] == [True, True, False, True, True]
    assert sum(len(result.scores) for result in kept) < 900


def test_suppress__nothing_found() -> None:
    found, boxes = many(0, images=1, count=0)
    kept = suppress([found], [boxes], [(10, 10), (10, 10)], Limits(0.0, 0.5, 1000, 100))
    assert [result.boxes.shape for result in kept] == [(0, 4), (0, 4)]
    assert [result.labels.dtype for result in kept] == [torch.int64] * 2


def test_suppress__keeps_the_best_and_clips_them() -> None:
    boxes = torch.tensor([[-5, -5, 10, 10], [90, 40, 130, 70], [20, 20, 30, 30.0]])
    found = Candidates(
        torch.tensor([0, 0, 0]), torch.arange(3), torch.tensor([0, 1, 0]), torch.tensor([0.3, 0.9, 0.1])
    )
    (kept,) = suppress([found], [boxes], [(60, 100)], Limits(0.0, 0.5, 1000, 2))
    assert kept.boxes.tolist() == [[90, 40, 100, 60], [0, 0, 10, 10]]
    assert kept.labels.tolist() == [1, 0]
