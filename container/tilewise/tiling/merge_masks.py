"""Masks of an image's views -> masks of the image, each in its box: never a bitmap of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilewise.arrays import Array, Bool, Float32, Float64, Int64
from tilewise.bitmaps import Bitmaps
from tilewise.boxes import area
from tilewise.instances import Instances
from tilewise.masks import MASKS, Masks, RunLengths, bitmaps_in
from tilewise.rasters import runs_of_stripes

AGREEMENT = 1 / 3
"""Two masks are one object's if they share more than this part of the smaller one."""
_STRIPE = 1 << 22
"""Pixels of a mask that are computed at once."""

_POINTS = 24
_AT_ONCE = 4096


def masks_agree(masks: Bitmaps, one_P: Int64, other_P: Int64) -> Bool:
    """Of which pairs the masks share enough to be one object's; pairs without a mask do.

    They are compared on a grid of points over what their boxes share.

    Args:
        masks: N.
        one_P: of each pair the index of one.
        other_P: and of the other.

    """
    agree = np.ones(len(one_P), np.bool_)
    sizes = _areas(masks)
    for start in range(0, len(one_P), _AT_ONCE):
        one, other = one_P[start : start + _AT_ONCE], other_P[start : start + _AT_ONCE]
        low = np.maximum(masks.frames[one, :2], masks.frames[other, :2])
        sides = (np.minimum(masks.frames[one, 2:], masks.frames[other, 2:]) - low).clip(min=0)
        steps = (np.arange(_POINTS) + 0.5) / _POINTS
        places = low[:, None] + steps[None, :, None] * sides[:, None]  # (P, points, 2)
        both = _inside(masks, one, places) & _inside(masks, other, places)
        shared = both.mean(axis=(1, 2)) * sides.prod(axis=1)
        enough = shared > AGREEMENT * np.minimum(sizes[one], sizes[other])
        known = masks.known[one] & masks.known[other]
        agree[start : start + _AT_ONCE] = enough | ~known
    return agree


def _areas(masks: Bitmaps) -> Float64:
    share = (masks.values > 127).mean(axis=(1, 2)) if len(masks) else np.zeros(0)
    found: Float64 = share * area(masks.frames.astype(np.float64))
    return found


def _inside(masks: Bitmaps, index_P: Int64, places: Float64) -> Bool:
    """Whether the points of a grid lie on a mask: (P, points down, points across)."""
    high, wide = masks.values.shape[1:]
    frame = masks.frames[index_P].astype(np.float64)
    sides = (frame[:, 2:] - frame[:, :2]).clip(min=1e-6)
    cells = ((places - frame[:, None, :2]) / sides[:, None] * [wide, high]).astype(np.int64)
    x, y = cells[..., 0].clip(0, wide - 1), cells[..., 1].clip(0, high - 1)
    inside: Bool = masks.values[index_P[:, None, None], y[:, :, None], x[:, None, :]] > 127
    return inside


@dataclass(frozen=True)
class Pieces:
    """Of which masks of views each instance's mask is to be made.

    Attributes:
        masks: those of all views.
        members: of each instance the indices of its masks.
        scores: of all masks.
        united: (N,) whether the mask is what its members cover together; else it is their mean.

    """

    masks: Bitmaps
    members: Sequence[Int64]
    scores: Float32
    united: Bool

    @staticmethod
    def alone(instances: Instances) -> Pieces | None:
        """Of instances that are only what one view says; None where they have no masks."""
        masks = bitmaps_in(instances.fields)
        if masks is None:
            return None
        members = list(np.arange(len(instances))[:, None])
        return Pieces(masks, members, instances.scores, np.zeros(len(instances), np.bool_))

    def select(self, rows: Int64) -> Pieces:
        """Those of some instances."""
        return replace(self, members=[self.members[row] for row in rows.tolist()], united=self.united[rows])


def place_masks(
    instances: Instances, pieces: Pieces, size: tuple[int, int], *, threshold: float = 0.5
) -> Instances:
    """Instances of an image with its masks: a pixel is an object's where that is surer than ``threshold``.

    The values of a mask lie at the centres of its cells, and those of pixels between four of them (as in
    Detectron2). A mask that several pieces were united to gives its instance the box around it.

    Args:
        instances: in pixels of the image.
        pieces: of their masks.
        size: (width, height) of the image.
        threshold: from 0 to 1.

    """
    shapes: list[RunLengths | None] = []
    for members, united in zip(pieces.members, pieces.united.tolist(), strict=True):
        known = members[pieces.masks.known[members]]
        if not len(known):
            shapes.append(None)
            continue
        frames = pieces.masks.frames[known]
        left, top = np.floor(frames[:, :2].min(axis=0)).clip(min=0).astype(int).tolist()
        right, bottom = np.minimum(np.ceil(frames[:, 2:].max(axis=0)), size).astype(int).tolist()
        right, bottom = max(left, right), max(top, bottom)
        step = max(1, _STRIPE // max(1, bottom - top))
        stripes = (
            _soft(pieces, known, (start, top, min(start + step, right), bottom), united=united)
            for start in range(left, right, step)
        )
        runs = runs_of_stripes((soft > 255 * threshold).astype(np.uint8) for soft in stripes)
        shapes.append(RunLengths(right - left, bottom - top, runs, left, top))
    masks = Masks.of(shapes).crop((0, 0, *size), size)
    several = np.array([len(members) > 1 for members in pieces.members], np.bool_)
    around = pieces.united & several & (masks.boxes[:, 2] > masks.boxes[:, 0])
    boxes = np.where(around[:, None], masks.boxes, instances.boxes)
    return replace(instances, boxes=boxes, fields={**instances.fields, MASKS: masks})


def _soft(pieces: Pieces, members: Int64, window: tuple[int, int, int, int], *, united: bool) -> Array:
    """How sure some masks are of the pixels of a window, of 255: (height, width)."""
    frames = pieces.masks.frames[members]
    if len(members) == 1:
        return _pixels(pieces.masks.values[members[0]], frames[0], window)
    left, top, right, bottom = window
    total = np.zeros((bottom - top, right - left), np.float32)
    weight = np.zeros_like(total)
    for frame, member in zip(frames, members.tolist(), strict=True):
        x0, y0 = np.maximum(np.floor(frame[:2]), (left, top)).astype(int).tolist()
        x1, y1 = np.minimum(np.ceil(frame[2:]), (right, bottom)).astype(int).tolist()
        if x1 <= x0 or y1 <= y0:
            continue
        part = _pixels(pieces.masks.values[member], frame, (x0, y0, x1, y1))
        where = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        if united:
            total[where] = np.maximum(total[where], part)
        else:
            total[where] += float(pieces.scores[member]) * part
            weight[where] += float(pieces.scores[member])
    soft: Array = total if united else total / np.maximum(weight, 1e-9)
    return soft


def _pixels(grid: Array, frame: Float32, window: tuple[int, int, int, int]) -> Float32:
    """A grid at the pixels of a window."""
    left, top, right, bottom = window
    x0, y0, x1, y1 = frame.tolist()
    high, wide = grid.shape
    down = _between(np.arange(top, bottom), y0, y1, high)
    across = _between(np.arange(left, right), x0, x1, wide)
    pixels: Float32 = down @ grid.astype(np.float32) @ across.T
    return pixels


def _between(pixels: Int64, start: float, end: float, cells: int) -> Float32:
    """How much each cell counts in each pixel: (pixels, cells). Beyond the grid there is nothing."""
    place = (pixels + 0.5 - start) / max(end - start, 1e-6) * cells - 0.5
    weights = (1 - np.abs(place[:, None] - np.arange(cells))).clip(min=0)
    return np.asarray(weights, np.float32)
