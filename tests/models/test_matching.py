from __future__ import annotations

import pytest
import torch
from ground_truth import make_targets
from tilewise.models.matching import (
    BoxCoder,
    Matcher,
    class_targets,
    matched_objects,
    on_ignored,
    split_ignored,
)
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher

WEIGHTS = (10.0, 20.0, 5.0, 4.0)


def boxes(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corner, corner + 1 + 20 * torch.rand(count, 2, generator=generator)], dim=1)


@pytest.mark.parametrize("seed", range(20))
def test_matcher__is_torchvisions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    quality = torch.rand(5, 40, generator=generator) * torch.rand(5, 1, generator=generator)
    quality = (10 * quality).round() / 10  # so that there are ties
    quality[4] *= seed % 2  # an object that meets no anchor
    arguments = (0.5, 0.4, True)
    assert torch.equal(Matcher(*arguments)(quality.clone()), TorchvisionMatcher(*arguments)(quality.clone()))


def test_matched_objects__are_those_of_each_image() -> None:
    targets = [
        {"boxes": boxes(2), "labels": torch.tensor([3, 1])},
        {"boxes": boxes(0), "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": boxes(3), "labels": torch.tensor([2, 2, 4])},
    ]
    matches = torch.tensor([[-1, 1, 0, 1], [-1, -2, -1, -1], [2, -1, 0, 2]])
    found = matched_objects(matches, targets)
    assert found.labels.tolist() == [[0, 1, 3, 1], [0, 0, 0, 0], [4, 0, 2, 4]]
    assert torch.equal(found.foreground, matches >= 0)
    for image, target in enumerate(targets):
        for anchor in torch.nonzero(matches[image] >= 0).flatten().tolist():
            assert torch.equal(found.boxes[image, anchor], target["boxes"][matches[image, anchor]])
    classes = class_targets(found, 5)
    assert classes.sum(dim=2).tolist() == found.foreground.float().tolist()
    assert (classes.argmax(dim=2) == found.labels).all()
    # where there is none, too, the regression is a number: else it would make a gradient of zero NaN
    assert BoxCoder(WEIGHTS).encode_single(found.boxes.flatten(0, 1), boxes(12)).isfinite().all()


def test_matched_objects__without_any() -> None:
    nothing = {"boxes": boxes(0), "labels": torch.zeros(0, dtype=torch.int64)}
    found = matched_objects(torch.full((1, 7), -1), [nothing])
    assert not found.foreground.any() and not class_targets(found, 2).any()


@pytest.mark.parametrize("classes", [1, 3])
def test_box_coder__is_torchvisions(classes: int) -> None:
    ours, theirs = BoxCoder(WEIGHTS), TorchvisionBoxCoder(WEIGHTS)
    proposals, wanted = boxes(9), boxes(10)[1:]
    torch.testing.assert_close(
        ours.encode_single(wanted, proposals), theirs.encode_single(wanted, proposals), rtol=0, atol=0
    )
    codes = 20 * torch.randn(9, 4 * classes, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.decode_single(codes, proposals), theirs.decode_single(codes, proposals))
    torch.testing.assert_close(
        ours.decode(codes, [proposals[:4], proposals[4:]]),
        theirs.decode(codes, [proposals[:4], proposals[4:]]),
    )
    assert ours.decode_single(codes[:0], proposals[:0]).shape == (0, 4 * classes)


@pytest.mark.parametrize("first_label", [0, 1])
def test_split_ignored__objects_and_ignored_boxes_apart(first_label: int) -> None:
    targets = make_targets([[0, 1, 2, 3], [8, 9, 10, 11]], [0, 2], [[4, 5, 6, 7]])
    (target,) = split_ignored([targets], first_label)
    assert target["labels"].tolist() == [first_label, 2 + first_label]
    assert target["boxes"].tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert target["ignored"].tolist() == [[4, 5, 6, 7]]


def test_split_ignored__finds_them_wherever_they_stand() -> None:
    targets = make_targets([], [], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    targets.ignored[1] = False
    (target,) = split_ignored([targets])
    assert (target["boxes"].tolist(), target["labels"].tolist()) == ([[4, 5, 6, 7]], [0])
    assert target["ignored"].tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]


def test_on_ignored__needs_an_iou_of_three_tenths_or_half_of_the_anchor() -> None:
    ignored = torch.tensor([[0, 0, 10, 10.0]])
    anchors = torch.tensor(
        [
            [0, 0, 10, 10],  # the box itself
            [0, 0, 20, 10],  # half in it
            [0, 0, 21, 10],  # IoU 0.48
            [0, 0, 10, 30],  # IoU 1/3
            [0, 0, 10, 34],  # IoU 0.29
            [5, 0, 15, 10],  # half in it
            [6, 0, 16, 10],  # IoU 0.25, 0.4 of it inside
            [2, 2, 4, 4],  # IoU 0.04, all of it inside
            [9, 9, 11, 11],  # a quarter inside
            [50, 50, 60, 60],
            [5, 5, 5, 5],  # no area
        ]
    ).float()
    expected = [True, True, True, True, False, True, False, True, False, False, False]
    assert on_ignored(anchors, ignored).tolist() == expected


def test_on_ignored__any_of_several_boxes_counts() -> None:
    anchors = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90.0]])
    assert on_ignored(anchors, anchors[[2, 0]]).tolist() == [True, False, True]


def test_on_ignored__nothing_ignored() -> None:
    assert on_ignored(torch.rand(5, 4), torch.zeros(0, 4)).tolist() == [False] * 5
