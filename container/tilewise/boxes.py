"""The geometry of boxes that readers, views and models share; for arrays and tensors alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tilewise.arrays import Array, Bool, Float32, Floats, Int64
from tilewise.fields import Corners

if TYPE_CHECKING:  # an endpoint may do without it
    from torch import Tensor

Size = tuple[int, int]
"""(width, height) in pixels."""

Rows = TypeVar("Rows", Array, "Tensor")


def crop_boxes(boxes_N4: Rows, window: Corners | Int64, size: Size | Int64) -> Rows:
    """Boxes in a frame -> boxes in what a window of it shows, not clipped.

    Args:
        boxes_N4: (N, 4) ``xmin, ymin, xmax, ymax`` in pixels of the frame.
        window: of the frame; it may reach beyond it. Or those of V views: (4, V, 1).
        size: (width, height) in pixels that the window is scaled to. Or those of V views: (2, V, 1).

    Returns:
        (N, 4), or (V, N, 4).

    """
    x0, y0, x1, y1 = window
    across, down = size[0] / (x1 - x0), size[1] / (y1 - y0)
    offset, scale = row_like(boxes_N4, (x0, y0, x0, y0)), row_like(boxes_N4, (across, down, across, down))
    return (boxes_N4 - offset) * scale


def flip_boxes(boxes_N4: Rows, width: float) -> Rows:
    """Boxes in a frame of ``width`` pixels -> in the frame that is mirrored left to right."""
    flipped = boxes_N4[:, [2, 1, 0, 3]]
    flipped[:, ::2] = width - flipped[:, ::2]
    return flipped


def clip_boxes(boxes_N4: Rows, size: Size | Int64) -> Rows:
    """What of the boxes lies in a frame of that (width, height); of one outside an edge or a corner."""
    corner = row_like(boxes_N4, (*size, *size))
    if isinstance(boxes_N4, np.ndarray):
        return np.minimum(np.maximum(boxes_N4, 0), corner)
    return boxes_N4.clip(row_like(boxes_N4, (0, 0, 0, 0)), corner)


def visible_part(boxes_N4: Rows, size: Size | Int64) -> tuple[Rows, Rows, Rows]:
    """What a frame shows of boxes that may lie beyond it.

    Args:
        boxes_N4: (N, 4) in pixels of the frame, or (V, N, 4) of V frames.
        size: its (width, height), or (2, V, 1).

    Returns:
        (…, 4) the boxes cut at the frame's border;
        (…) which are seen: at least a pixel of each side is left;
        (…) the share of each one's area that is left.

    """
    clipped = clip_boxes(boxes_N4, size)
    visible_sides = sides(clipped)
    return (
        clipped,
        (visible_sides[..., 0] >= 1) & (visible_sides[..., 1] >= 1),
        area_of_sides(visible_sides) / area(boxes_N4),
    )


def sides(boxes: Rows) -> Rows:
    """(…, 4) boxes -> (…, 2) their width and height, never below 0."""
    return _not_negative(boxes[..., 2:] - boxes[..., :2])


def _not_negative(numbers: Rows) -> Rows:
    if isinstance(numbers, np.ndarray):  # of a few numbers, in half the time of their method
        return np.maximum(numbers, 0)
    return numbers.clip(min=0)


def area(boxes: Rows) -> Rows:
    """(…, 4) boxes -> (…)."""
    return area_of_sides(sides(boxes))


def area_of_sides(sides: Rows) -> Rows:
    """(…, 2) width and height -> (…)."""
    return sides[..., 0] * sides[..., 1]  # not Tensor.prod, whose gradient makes a GPU wait


def object_size(boxes: Array) -> Array:
    """(…, 4) boxes -> (…) √area, what an object's size means everywhere."""
    return size_of_sides(sides(boxes))


def size_of_sides(sides: Array) -> Array:
    """(…, 2) width and height -> (…) √area."""
    size: Array = np.sqrt(area_of_sides(sides))
    return size


def intersection(boxes: Rows, others: Rows) -> Rows:
    """The area that boxes and others share: (…, 4) and (…, 4) -> (…), broadcast.

    Pair by pair as they are; all with all as ``boxes[:, None]`` and ``others``.
    """
    if isinstance(boxes, np.ndarray):
        start, end = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    else:
        start, end = boxes[..., :2].maximum(others[..., :2]), boxes[..., 2:].minimum(others[..., 2:])
    return area_of_sides(_not_negative(end - start))


def paired_iou(boxes: Rows, others: Rows) -> Rows:
    """Intersection over union, broadcast as in :func:`intersection`; 0 for what has no area.

    With a gradient, and no wait for a GPU.
    """
    shared, united = intersection_and_union(boxes, others)
    iou: Rows = shared / united.clip(min=1e-9)
    return iou


def mostly_inside(boxes_N4: Float32, others_M4: Float32) -> Bool:
    """(N,) which boxes lie in one of the others by half of their area or more."""
    boxes = boxes_N4.astype(np.float64)
    half, inside = area(boxes) / 2, np.zeros(len(boxes), np.bool_)
    for other in others_M4.astype(np.float64):
        inside |= intersection(boxes, other) >= half
    return inside


def intersection_and_union(boxes: Rows, others: Rows) -> tuple[Rows, Rows]:
    """Both areas, broadcast as in :func:`intersection`."""
    shared = intersection(boxes, others)
    return shared, area(boxes) + area(others) - shared


def row_like(boxes_N4: Rows, numbers: Sequence[float | Array]) -> Rows:
    """One row of numbers of the type of the boxes; of four (V, 1) arrays a row for each view: (V, 1, 4)."""
    if not isinstance(boxes_N4, np.ndarray):
        return boxes_N4.new_tensor(numbers)
    row = np.array(numbers, boxes_N4.dtype)
    return row if row.ndim == 1 else row.transpose(1, 2, 0)


class AlongAxis:
    """Boxes in their order along an axis: those near a range are found without a look at all of them.

    Args:
        boxes_N4: on the CPU.
        axis: 0 for x, 1 for y.

    """

    def __init__(self, boxes_N4: Floats, axis: int):
        self._order = np.argsort(boxes_N4[:, axis], kind="stable")
        self._starts = boxes_N4[self._order, axis]
        self._farthest = np.maximum.accumulate(boxes_N4[self._order, axis + 2])

    def near(self, low: float, high: float) -> Int64:
        """The numbers of all boxes that reach into a range, and of some that do not: few, if few are long."""
        first = np.searchsorted(self._farthest, low, "right")
        return self._order[first : np.searchsorted(self._starts, high)]
