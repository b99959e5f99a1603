"""SSD's random crop and zoom-out (Liu et al. 2016, section 3.6), as choices of a view's window.

As windows they cost one decoded crop: no image is copied, padded or resized twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tilewise.data.records import Float32

MIN_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
ZOOM_OUT_PROBABILITY = 0.5
TRIALS = 40

Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Variety:
    """How far windows may go: out to so many times a view's sides, and in to such a share of each side."""

    largest_zoom_out: float
    smallest_crop: float


SSD_WINDOWS = Variety(2.0, 0.3)
TILE_WINDOWS = Variety(1.25, 0.7)
"""A tile is there to show objects at a size that the detector resolves: its windows stay near that."""


def random_window(
    width: int, height: int, boxes_N4: Float32, rng: np.random.Generator, variety: Variety = SSD_WINDOWS
) -> Window:
    """Draw the window ``x0, y0, x1, y1`` that a training view shows of an image.

    With probability :data:`ZOOM_OUT_PROBABILITY` a window that is larger than the image and holds all of it;
    else the whole image, or a crop. A crop holds the centre of an object, and of each object whose centre it
    holds it shows a drawn share.

    Args:
        width: pixels of the image.
        height: pixels of the image.
        boxes_N4: its boxes in pixels.
        rng: draws.
        variety: how much larger or smaller than the image.

    """
    whole = (0, 0, width, height)
    if rng.random() < ZOOM_OUT_PROBABILITY:
        return _zoom_out(width, height, variety.largest_zoom_out, rng)
    choice = int(rng.integers(len(MIN_SHARES) + 1))
    if choice == len(MIN_SHARES) or not len(boxes_N4):
        return whole
    for _ in range(TRIALS):
        window = _crop(width, height, variety.smallest_crop, rng)
        if window is not None and _shows(window, boxes_N4, MIN_SHARES[choice]):
            return window
    return whole


def _zoom_out(width: int, height: int, largest: float, rng: np.random.Generator) -> Window:
    ratio = rng.uniform(1, largest)
    wide, high = int(width * ratio), int(height * ratio)
    left = int(rng.integers(wide - width + 1))
    top = int(rng.integers(high - height + 1))
    return -left, -top, wide - left, high - top


def _crop(width: int, height: int, smallest: float, rng: np.random.Generator) -> Window | None:
    wide, high = rng.uniform(smallest, 1, size=2) * (width, height)
    if not 0.5 <= (wide / high) / (width / height) <= 2:
        return None
    wide, high = max(1, int(wide)), max(1, int(high))
    left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
    return left, top, left + wide, top + high


def _shows(window: Window, boxes_N4: Float32, min_share: float) -> bool:
    """Whether the window holds a box's centre, and that share of each box whose centre it holds."""
    x0, y0, x1, y1 = window
    centres = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    held = ((centres > (x0, y0)) & (centres < (x1, y1))).all(axis=1)
    if not held.any():
        return False
    boxes = boxes_N4[held]
    sides = np.minimum(boxes[:, 2:], (x1, y1)) - np.maximum(boxes[:, :2], (x0, y0))
    common = sides.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    # The paper asks for an IoU, but that of a small object with any window is tiny: the share stands in.
    return bool((common / areas >= min_share).all())
