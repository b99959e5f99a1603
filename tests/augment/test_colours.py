from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.augment.colours import change_colours
from torch import Tensor
from torchvision.transforms.v2 import functional as F


class Draws:
    """A generator by which the numbered ones of brightness, contrast, saturation and hue change."""

    def __init__(self, changed: set[int], share: float) -> None:
        self.answers = iter(0.0 if number in changed else 0.9 for number in range(4))
        self.share = share

    def random(self) -> float:
        return next(self.answers)

    def uniform(self, low: float, high: float) -> float:
        return low + self.share * (high - low)


def change(pixels: Tensor, changed: set[int], share: float) -> Tensor:
    return change_colours(pixels, Draws(changed, share))  # type: ignore[arg-type]


def noise(low: int = 0, high: int = 256, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (3, 9, 14), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("number", "theirs", "low", "high"),
    [
        (0, F.adjust_brightness, 0.875, 1.125),
        (1, F.adjust_contrast, 0.5, 1.5),
        (2, F.adjust_saturation, 0.5, 1.5),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_change_colours__as_torchvision(
    number: int, theirs: Callable[[Tensor, float], Tensor], low: float, high: float, share: float
) -> None:
    pixels = noise(60, 190)
    expected = theirs(pixels, low + share * (high - low))
    assert (change(pixels, {number}, share).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_change_colours__same_for_pixels_with_colours_last(seed: int) -> None:
    pixels = noise(60, 190)
    colours_last = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    one, other = (change_colours(each, np.random.default_rng(seed)) for each in (pixels, colours_last))
    assert torch.equal(one, other)


def test_change_colours__one_after_the_other() -> None:
    pixels = noise(100, 150)
    expected = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(pixels, 1.1), 1.4), 1.4)
    assert (
        change(pixels, {0, 1, 2}, 0.9).int() - expected.int()
    ).abs().max() <= 3  # torchvision truncates each time


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_hue__keeps_grey_and_luma(share: float) -> None:
    grey = noise()[:1].expand(3, -1, -1)
    assert torch.equal(change(grey, {3}, share), grey)
    pixels = noise(80, 170)
    luma = torch.tensor([0.299, 0.587, 0.114])
    before, after = (
        torch.tensordot(luma, each.float(), dims=1) for each in (pixels, change(pixels, {3}, share))
    )
    assert (before - after).abs().max() < 1


def test_hue__same_direction_as_torchvision_and_back() -> None:
    red = torch.tensor([200, 60, 60], dtype=torch.uint8).view(3, 1, 1)
    for share in (0.0, 1.0):
        theirs = F.adjust_hue(red, 0.1 * share - 0.05).flatten().int()
        ours = change(red, {3}, share).flatten().int()
        assert (theirs[1] > theirs[2]) == (ours[1] > ours[2])
    assert (change(change(red, {3}, 1.0), {3}, 0.0).int() - red.int()).abs().max() <= 1


def test_change_colours__nothing_drawn_is_nothing_done() -> None:
    pixels = noise()
    assert change(pixels, set(), 0.3) is pixels


def test_change_colours__in_one_thread() -> None:
    assert cv2.getNumThreads() == 1  # loader processes are one for each core


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_change_colours__what_was_given_stays(seed: int) -> None:
    pixels = noise(seed=seed)
    before = pixels.clone()
    changed = change_colours(pixels, np.random.default_rng(seed))
    assert torch.equal(pixels, before)
    assert (changed.dtype, changed.shape) == (pixels.dtype, pixels.shape)
