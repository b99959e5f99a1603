"""SNIPER's chips (Singh, Najibi & Davis, NeurIPS 2018): windows that cover the objects, some that do not."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import product

import numpy as np

from tilewise.arrays import Float64, Floats, Int64
from tilewise.boxes import object_size
from tilewise.tiling.pyramid import level_tile, pyramid_views
from tilewise.tiling.spec import Level
from tilewise.views.view import Scaling, View, Window

STRIDE = (56 / 512, 60 / 512)
"""Between candidates, as a share of a chip; drawn anew for each cover (SNIPER's code: 56 to 59 of 512 px)."""
TRIALS = 20


def positive_chips(
    width: int,
    height: int,
    boxes_N4: Floats,
    *,
    chip: tuple[int, int],
    stride: tuple[float, float],
    rng: np.random.Generator,
) -> list[Window]:
    """Few chips that together hold, whole, every box that is smaller than a chip by a stride.

    The greedy cover of SNIPER: of the candidates on a grid, and of those at the right and bottom borders,
    take the one that holds most boxes which no chip holds yet, again and again.

    Args:
        width: pixels of the image.
        height: pixels of the image.
        boxes_N4: the boxes to cover, in pixels of the image.
        chip: width and height of a chip in pixels of the image.
        stride: between candidates, along x and y, in pixels of the image.
        rng: draws which of equally good candidates is taken.

    """
    if not len(boxes_N4):
        return []
    xs, ys = (_candidates(*axis) for axis in zip((width, height), chip, stride, strict=True))
    first, last = _holders(boxes_N4, xs, ys, chip)
    gains = _held_by_each(first, last, (len(ys), len(xs)))
    gain_of = gains.reshape(-1)
    useful = rng.permutation(np.flatnonzero(gain_of))
    block = int((last - first).max(initial=1))  # of so many candidates a side
    waiting: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for number, (column, row) in enumerate((first // block).tolist()):
        waiting[column, row].add(number)
    rectangles = np.concatenate([first, last], axis=1).tolist()
    chips = []
    for gain in range(int(gains.max(initial=0)), 0, -1):
        for candidate in useful[gain_of[useful] == gain].tolist():
            if gain_of[candidate] < gain:  # others hold some of its boxes now
                continue
            y, x = divmod(candidate, len(xs))
            chips.append((int(xs[x]), int(ys[y]), int(xs[x]) + chip[0], int(ys[y]) + chip[1]))
            column, row = x // block, y // block
            for boxes in (waiting[near] for near in product((column - 1, column), (row - 1, row))):
                for number in tuple(boxes):
                    left, top, right, bottom = rectangles[number]
                    if left <= x < right and top <= y < bottom:
                        gains[top:bottom, left:right] -= 1
                        boxes.remove(number)
    return chips


def _holders(boxes_N4: Floats, xs: Int64, ys: Int64, chip: tuple[int, int]) -> tuple[Int64, Int64]:
    """The candidates that hold each box that fits into one, whole: a rectangle of them.

    Returns:
        (M, 2) its first column and row, and (M, 2) those behind its last.

    """
    boxes = boxes_N4.astype(np.float64)
    first = [np.searchsorted(axis, boxes[:, 2 + n] - chip[n], "left") for n, axis in enumerate((xs, ys))]
    last = [np.searchsorted(axis, boxes[:, n], "right") for n, axis in enumerate((xs, ys))]
    begin, end = np.stack(first, axis=1), np.stack(last, axis=1)
    fits = (begin < end).all(axis=1)
    return begin[fits], end[fits]


def _held_by_each(first_M2: Int64, last_M2: Int64, shape: tuple[int, int]) -> Int64:
    """How many boxes each candidate holds, (rows, columns): the sum of the boxes' rectangles."""
    corners = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
    (left, top), (right, bottom) = first_M2.T, last_M2.T
    for x, y, sign in ((left, top, 1), (right, bottom, 1), (left, bottom, -1), (right, top, -1)):
        np.add.at(corners, (y, x), sign)
    return np.ascontiguousarray(corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1])


def _candidates(length: int, chip: int, stride: float) -> Int64:
    """Where chips may begin along an axis: on the grid, and at its end."""
    last = max(0, length - chip)
    # Whole pixels, and never more than a stride apart: else a box that just fits may fit into none.
    return np.unique([*range(0, last, max(1, math.floor(stride))), last])


def negative_chips(
    width: int,
    height: int,
    boxes_N4: Floats,
    *,
    chip: tuple[int, int],
    count: int,
    rng: np.random.Generator,
    false_positives_M4: Floats | None = None,
) -> list[Window]:
    """Chips without an object: around false positives, most of them first, or else drawn from the background.

    Args:
        width: pixels of the image.
        height: pixels of the image.
        boxes_N4: all boxes of the image: no chip holds the centre of one.
        chip: width and height of a chip in pixels of the image.
        count: how many at most.
        rng: draws.
        false_positives_M4: what a model took for objects here and is none.

    Returns:
        At most ``count`` chips; fewer where the image has too little background.

    """
    chips: list[Window] = []
    xs, ys = (boxes_N4[:, :2].astype(np.float64) + boxes_N4[:, 2:]).T / 2
    by_x = np.argsort(xs)
    centres = xs[by_x], ys[by_x]
    if false_positives_M4 is not None and len(false_positives_M4):
        stride = chip[0] / 8, chip[1] / 8
        chips = positive_chips(width, height, false_positives_M4, chip=chip, stride=stride, rng=rng)
        chips = [window for window in chips if not _holds_one(window, *centres)]
    for _ in range(TRIALS * count):
        if len(chips) >= count:
            break
        x, y = (
            int(rng.integers(max(0, length - side) + 1))
            for length, side in zip((width, height), chip, strict=True)
        )
        window = x, y, x + chip[0], y + chip[1]
        if not _holds_one(window, *centres):
            chips.append(window)
    return chips[:count]


def _holds_one(window: Window, xs_N: Float64, ys_N: Float64) -> bool:
    """Whether one of these points, sorted by x, lies in a window."""
    x0, y0, x1, y1 = map(float, window)  # to search for whole numbers would convert all points
    ys = ys_N[slice(*xs_N.searchsorted((x0, x1)))]
    return bool(((ys >= y0) & (ys < y1)).any())


def chip_of(
    width: int, height: int, level: Level, *, scaling: Scaling, chip_size: int | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    """A level's chips: their (width, height) in pixels of the image, and in pixels of the view.

    They show objects as large as the level's windows do. A detector of square views sees chips of that
    square; any other one chips of ``chip_size`` pixels a side, or less where the level's image has less.
    """
    size = scaling.size_of(width, height)
    if scaling.square is not None:
        return level_tile(width, height, level), size
    assert chip_size is not None
    window = []
    for length, side in zip((width, height), size, strict=True):
        scale = level.zoom * side / length
        window.append(min(length, math.ceil(chip_size / scale)))
    scales = (level.zoom * side / length for length, side in zip((width, height), size, strict=True))
    view_size = [max(1, round(side * scale)) for side, scale in zip(window, scales, strict=True)]
    return (window[0], window[1]), (view_size[0], view_size[1])


def sniper_views(
    width: int,
    height: int,
    boxes_N4: Floats,
    *,
    levels: tuple[Level, ...],
    scaling: Scaling,
    chip_size: int | None,
    rng: np.random.Generator,
) -> list[View]:
    """The positive chips of all levels; of a level that shows the whole image, that one view.

    Args:
        width: pixels of the image.
        height: pixels of the image.
        boxes_N4: in pixels of the image.
        levels: each covers the boxes that it trains on.
        scaling: of the whole image.
        chip_size: see :func:`chip_of`.
        rng: draws the cover anew for each epoch.

    """
    sizes = object_size(boxes_N4)
    views = []
    for level in levels:
        low, high = level.trains_on
        valid = boxes_N4[(sizes >= low) & (sizes < high)]
        chip, size = chip_of(width, height, level, scaling=scaling, chip_size=chip_size)
        step = rng.uniform(*STRIDE)
        stride = step * chip[0], step * chip[1]
        if level.zoom <= 1 and len(valid):
            views += pyramid_views(width, height, (level,), overlap=0.0, scaling=scaling, training=True)
        elif level.zoom > 1:
            windows = positive_chips(width, height, valid, chip=chip, stride=stride, rng=rng)
            views += [View(window, size, level.trains_on) for window in windows]
    return views


def background_views(  # noqa: PLR0913  # those of sniper_views and of negative_chips
    width: int,
    height: int,
    boxes_N4: Floats,
    *,
    levels: tuple[Level, ...],
    scaling: Scaling,
    chip_size: int | None,
    count: int,
    rng: np.random.Generator,
    false_positives_M4: Floats | None = None,
) -> list[View]:
    """Up to ``count`` negative chips of a level that is drawn.

    Args as :func:`sniper_views` and :func:`negative_chips`.
    """
    zoomed = [level for level in levels if level.zoom > 1] or levels
    level = zoomed[int(rng.integers(len(zoomed)))]
    chip, size = chip_of(width, height, level, scaling=scaling, chip_size=chip_size)
    windows = negative_chips(
        width, height, boxes_N4, chip=chip, count=count, rng=rng, false_positives_M4=false_positives_M4
    )
    return [View(window, size, level.trains_on) for window in windows]
