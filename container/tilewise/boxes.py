"""The geometry of boxes that readers, views and models share; for arrays and tensors alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from tilewise.arrays import Array
from tilewise.fields import Corners

Rows = TypeVar("Rows", Array, Tensor)


def crop_boxes(boxes_N4: Rows, window: Corners, size: tuple[int, int]) -> Rows:
    """Boxes in a frame -> boxes in what a window of it shows, not clipped.

    Args:
        boxes_N4: (N, 4) ``xmin, ymin, xmax, ymax`` in pixels of the frame.
        window: of the frame; it may reach beyond it.
        size: (width, height) in pixels that the window is scaled to.

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


def clip_boxes(boxes_N4: Rows, size: tuple[int, int]) -> Rows:
    """What of the boxes lies in a frame of that (width, height); of one outside an edge or a corner."""
    return boxes_N4.clip(row_like(boxes_N4, (0, 0, 0, 0)), row_like(boxes_N4, (*size, *size)))


def row_like(boxes_N4: Rows, numbers: Sequence[float]) -> Rows:
    """One row of numbers of the type of the boxes."""
    if isinstance(boxes_N4, Tensor):
        return boxes_N4.new_tensor(numbers)
    return np.array(numbers, boxes_N4.dtype)
