from __future__ import annotations

import pytest
import torch
from tilewise.models.matching import BoxCoder, Matcher, class_targets, matched_objects
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
