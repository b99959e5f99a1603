from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tilewise.arrays import Bool, Float32, Int64
from tilewise.views.view import View

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

    A box is kept when at least ``min_visibility`` of its area is in the view and its size is one that the
    view answers for; else ignored, neither an object nor background. It is dropped when none of it is in the
    view, or when less than a pixel of the view is left of a side.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4) float32 in pixels of the image.
        labels: (N,) int64.
        ignored: (N,) bool.
        view: the window and the size to scale it to.
        min_visibility: share of a box's area.
        factor: by how much the image has been reduced; see :meth:`View.pixels_from_image`.

    """
    whole = view.boxes_from_image(boxes)
    width, height = view.size
    clipped = whole.clip(0, np.array([width, height, width, height], whole.dtype))
    sides = clipped[:, 2:] - clipped[:, :2]
    visible = (sides >= 1).all(axis=1)
    share = sides.prod(axis=1) / (whole[:, 2:] - whole[:, :2]).prod(axis=1)
    left_out = (share < min_visibility) | ~view.answers_for(boxes)
    return Sample(
        view.pixels_from_image(image, factor),
        torch.from_numpy(clipped[visible]),
        torch.from_numpy(labels[visible]),
        torch.from_numpy((ignored | left_out)[visible]),
    )
