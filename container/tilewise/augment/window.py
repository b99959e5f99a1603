"""SSD's random crop and zoom-out (Liu et al. 2016, section 3.6), as choices of a view's window.

As windows they cost one decoded crop: no image is copied, padded or resized twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilewise.arrays import Bool, Float32, Floats, Int64
from tilewise.augment.transform import Draft, Transform
from tilewise.boxes import area, intersection
from tilewise.views.view import Scaling, View, Window

MIN_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
ZOOM_OUT_PROBABILITY = 0.5
TRIALS, AT_ONCE = 40, 8
"""So many crops are tried, eight of them in one go."""


@dataclass(frozen=True)
class Variety:
    """How far windows may go: out to so many times a view's sides, and in to such a share of each side."""

    largest_zoom_out: float
    smallest_crop: float


SSD_WINDOWS = Variety(2.0, 0.3)
TILE_WINDOWS = Variety(1.25, 0.7)
"""A tile is there to show objects at a size that the detector resolves: its windows stay near that."""


class RandomWindow(Transform):
    """Shows a random window of an image, or of a view of it, scaled to at most that view's size.

    A tile's objects keep nearly the size that the tile is there for.

    Args:
        scaling: of views of whole images.

    """

    def __init__(self, scaling: Scaling):
        self.scaling = scaling

    def change_drafts(self, drafts: Sequence[Draft], rngs: Sequence[np.random.Generator]) -> Sequence[Draft]:
        """All of them, each with the window that is drawn."""
        return [
            Draft(draft.width, draft.height, draft.targets, self._draw(draft, rng))
            for draft, rng in zip(drafts, rngs, strict=True)
        ]

    def _draw(self, draft: Draft, rng: np.random.Generator) -> View:
        view = draft.view
        if view is None:
            window = random_window(draft.width, draft.height, draft.targets.boxes, rng=rng)
            return View(window, self.scaling.size_of(window[2] - window[0], window[3] - window[1]))
        x0, y0, x1, y1 = view.window
        boxes = draft.targets.near(view.window).boxes - np.array([x0, y0, x0, y0], np.float32)
        variety = SSD_WINDOWS if view.window == (0, 0, draft.width, draft.height) else TILE_WINDOWS
        left, top, right, bottom = random_window(x1 - x0, y1 - y0, boxes, rng=rng, variety=variety)
        if self.scaling.square is None:
            limits = Scaling(min_size=min(view.size), max_size=max(view.size))
            view = replace(view, size=limits.size_of(right - left, bottom - top))
        return replace(view, window=(x0 + left, y0 + top, x0 + right, y0 + bottom))


def random_window(
    width: int, height: int, boxes_N4: Float32, *, rng: np.random.Generator, variety: Variety = SSD_WINDOWS
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
    for _ in range(TRIALS // AT_ONCE):
        windows = _crops(width, height, variety.smallest_crop, rng)
        shows = _show(windows, boxes_N4, MIN_SHARES[choice])
        if shows.any():
            x0, y0, x1, y1 = windows[shows.argmax()].tolist()
            return x0, y0, x1, y1
    return whole


def _zoom_out(width: int, height: int, largest: float, rng: np.random.Generator) -> Window:
    ratio = rng.uniform(1, largest)
    wide, high = int(width * ratio), int(height * ratio)
    left = int(rng.integers(wide - width + 1))
    top = int(rng.integers(high - height + 1))
    return -left, -top, wide - left, high - top


def _crops(width: int, height: int, smallest: float, rng: np.random.Generator) -> Int64:
    """(T, 4) windows inside the image, whose aspect ratios are half to twice its own."""
    shares = rng.uniform(smallest, 1, (AT_ONCE, 2))
    ratios = shares[:, 0] / shares[:, 1]
    shares = shares[(ratios >= 0.5) & (ratios <= 2)]
    image = np.array([width, height])
    sides = np.maximum(1, (shares * image).astype(np.int64))
    corners = rng.integers(image - sides + 1)
    return np.concatenate([corners, corners + sides], axis=1)


def _show(windows_T4: Int64, boxes_N4: Float32, min_share: float) -> Bool:
    """Which windows hold a box's centre, and that share of each box whose centre they hold. Returns (T,)."""
    starts, ends = windows_T4[:, None, :2], windows_T4[:, None, 2:]
    centres = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    held = ((centres > starts) & (centres < ends)).all(axis=2)
    # The paper asks for an IoU, but that of a small object with any window is tiny: the share stands in.
    shown_TN: Floats = intersection(boxes_N4, windows_T4[:, None])
    enough = shown_TN >= min_share * area(boxes_N4)
    return np.asarray(np.any(held, axis=1) & (enough | ~held).all(axis=1))
