from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilewise.arrays import Bool, Float32, Int64
from tilewise.boxes import visible_part
from tilewise.views.view import View, objects_shown

MIN_VISIBILITY = 0.4
"""A box of which the view shows a smaller share of its area is ignored, unless the job says otherwise."""


@dataclass(frozen=True)
class Sample:
    """A view's pixels, and its targets in the view's own frame.

    Attributes:
        pixels: (3, h, w) uint8.
        boxes: (N, 4) float32, inside the view.
        labels: (N,) int64, 0-based.
        ignored: (N,) bool.

    """

    pixels: Tensor
    boxes: Tensor
    labels: Tensor
    ignored: Tensor


def make_sample(
    image: Tensor,
    boxes: Float32,
    labels: Int64,
    ignored: Bool,
    view: View,
    min_visibility: float = MIN_VISIBILITY,
    factor: int = 1,
) -> Sample:
    """Look at an image and its ground truth through a view.

    A box is kept when it is an object of the view, see :func:`objects_shown`; else ignored, neither an object
    nor background. It is dropped when none of it is in the view, or when less than a pixel of the view is
    left of a side.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4) float32 in pixels of the image.
        labels: (N,) int64.
        ignored: (N,) bool.
        view: the window and the size to scale it to.
        min_visibility: share of a box's area.
        factor: by how much the image has been reduced; see :meth:`View.pixels_from_image`.

    """
    clipped, visible, _ = visible_part(view.boxes_from_image(boxes), view.size)
    (objects,) = objects_shown([view], boxes, min_visibility)
    return Sample(
        view.pixels_from_image(image, factor),
        torch.from_numpy(clipped[visible]),
        torch.from_numpy(labels[visible]),
        torch.from_numpy((ignored | ~objects)[visible]),
    )
