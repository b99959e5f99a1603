from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tilewise.arrays import Array, Bool, Floats
from tilewise.boxes import AlongAxis, clip_boxes, crop_boxes, object_size, visible_part
from tilewise.instances import Instances
from tilewise.views.arrays import FILL, Window, WindowedPixels, cut_array, mirror_array

if TYPE_CHECKING:  # an endpoint may do without it
    from torch import Tensor

__all__ = [
    "ANY_SIZE",
    "FILL",
    "CentreCrop",
    "Scaling",
    "SizeRange",
    "View",
    "Window",
    "objects_shown",
    "views_with_objects",
    "whole_image",
]

Pixels = TypeVar("Pixels", Array, "Tensor")

SizeRange = tuple[float, float]
"""Object sizes, √area in pixels of the upright image: from the first up to, not including, the second."""

ANY_SIZE: SizeRange = (0.0, math.inf)

PAIRS, ROWS = 100_000, 16
"""So many views and boxes are all compared with each other; of more, so many views of a column at once."""


@dataclass(frozen=True)
class Scaling:
    """How large a window becomes for the model.

    Either ``square``: each window is scaled to ``(square, square)`` pixels, its aspect ratio not kept
    (SSD, YOLOX); or ``min_size`` and ``max_size``: the shorter side becomes ``min_size``, but the longer side
    at most ``max_size`` (Faster R-CNN, RetinaNet, FCOS; torchvision's GeneralizedRCNNTransform).
    """

    square: int | None = None
    min_size: int | None = None
    max_size: int | None = None

    def __post_init__(self) -> None:
        if (self.square is None) == (self.min_size is None) or (self.min_size is None) != (
            self.max_size is None
        ):
            raise ValueError("a Scaling has either square, or min_size and max_size")

    def size_of(self, width: float, height: float) -> tuple[int, int]:
        """The (width, height) in pixels that a window of that many pixels is scaled to."""
        if self.square is not None:
            return self.square, self.square
        assert self.min_size is not None and self.max_size is not None
        scale = min(self.min_size / min(width, height), self.max_size / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    @property
    def largest(self) -> tuple[int, int]:
        """The two sides in pixels of the largest view."""
        if self.square is not None:
            return self.square, self.square
        assert self.min_size is not None and self.max_size is not None
        return self.min_size, self.max_size

    def window(self, width: int, height: int) -> Window:
        """What is seen of an image of so many pixels, where it is seen once: all of it."""
        return 0, 0, width, height


@dataclass(frozen=True)
class CentreCrop(Scaling):
    """The shorter side becomes ``resized`` pixels, and the ``square`` in the middle is seen."""

    resized: int = 256

    def window(self, width: int, height: int) -> Window:
        """The square in the middle, in whole pixels of the image."""
        assert self.square is not None
        side = max(1, round(min(width, height) * self.square / self.resized))
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side


@dataclass(frozen=True)
class View:
    """What the model is to look at: a window of an image, and the size it is scaled to.

    Boxes are arrays: to place the few of a view, tensors need three times as long. Pixels are arrays, or
    tensors on any device.

    Attributes:
        window: ``x0, y0, x1, y1`` in whole pixels of the upright image; it may reach beyond the image.
        size: (width, height) in pixels of what the model sees.
        object_sizes: the sizes of the objects that it answers for, √area in pixels of the upright image:
            objects of other sizes are ignored in training, and detections of other sizes are dropped.
        mirrored: whether its pixels are mirrored left to right, at inference only.

    """

    window: Window
    size: tuple[int, int]
    object_sizes: SizeRange = ANY_SIZE
    mirrored: bool = False

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the view for one pixel of the image, along x and y."""
        x0, y0, x1, y1 = self.window
        return self.size[0] / (x1 - x0), self.size[1] / (y1 - y0)

    @property
    def reduction(self) -> int:
        """1, 2, 4 or 8: by so much the image may be reduced beforehand and still be at least as fine."""
        return max(factor for factor in (1, 2, 4, 8) if factor * max(self.scale) <= 1 or factor == 1)

    def snapped(self, factor: int) -> View:
        """The view with its window's sides moved outward to multiples of ``factor``."""
        if factor == 1:
            return self
        x0, y0, x1, y1 = self.window
        grown = (x0 // factor, y0 // factor, -(-x1 // factor), -(-y1 // factor))
        return replace(self, window=tuple(factor * side for side in grown))  # type: ignore[arg-type]

    def boxes_from_image(self, boxes_N4: Floats) -> Floats:
        """Boxes in the image's pixels -> boxes in the view's pixels, not clipped."""
        return crop_boxes(boxes_N4, self.window, self.size)

    def boxes_to_image(self, boxes_N4: Floats) -> Floats:
        """Boxes in the view's pixels -> boxes in the image's pixels, not clipped."""
        return boxes_N4 / self._factor(boxes_N4) + self._offset(boxes_N4)

    def upright(self, detections: Instances) -> Instances:
        """What was found in the view, in its pixels -> as they are without mirroring."""
        return detections.flip(self.size[0]) if self.mirrored else detections

    def to_image(self, detections: Instances, width: int, height: int) -> Instances:
        """What was found in the view -> in the pixels of its image, cut at the image's border.

        Args:
            detections: in the view's pixels, :meth:`upright`, on the CPU.
            width: pixels of the image.
            height: pixels of the image.

        """
        boxes = clip_boxes(self.boxes_to_image(detections.boxes), (width, height))
        (x0, y0, _, _), (across, down) = self.window, self.scale
        image = (-x0 * across, -y0 * down, (width - x0) * across, (height - y0) * down)
        fields = {name: each.crop(image, (width, height)) for name, each in detections.fields.items()}
        return replace(detections, boxes=boxes, fields=fields)

    def answers_for(self, boxes_N4: Floats) -> Bool:
        """Which boxes, in the image's pixels, have a size in :attr:`object_sizes`. Returns (N,) bool."""
        smallest, largest = self.object_sizes
        sizes = object_size(boxes_N4)
        return np.asarray((sizes >= smallest) & (sizes < largest))

    def pixels_from_image(self, image: Pixels, factor: int = 1) -> Pixels:
        """Cut the window out of an image and scale it.

        Args:
            image: (3, H, W) uint8, an array, or a tensor on any device.
            factor: by how much the image has been reduced; the view must be :meth:`snapped` to it.

        Returns:
            (3, height, width) uint8 of :attr:`size`, memory of its own; what lies outside the image is
            :data:`~tilewise.views.arrays.FILL`. Of an array an array: both scale as Pillow does, and differ
            by 1 in some of a thousand values, where a sum lies on the border between two.

        """
        x0, y0, x1, y1 = (side // factor for side in self.window)
        window = x0, y0, x1, y1
        if isinstance(image, WindowedPixels):
            image, window = image.part(window)
        if isinstance(image, np.ndarray):
            cut = cut_array(image, window, self.size)
            return mirror_array(cut) if self.mirrored else cut
        from tilewise.views.tensors import cut_tensor

        tensor = cut_tensor(image, window, self.size)
        return tensor.flip(-1) if self.mirrored else tensor

    def _offset(self, like: Floats) -> Floats:
        x0, y0, _, _ = self.window
        return np.array([x0, y0, x0, y0], like.dtype)

    def _factor(self, like: Floats) -> Floats:
        return np.array([*self.scale, *self.scale], like.dtype)


def whole_image(width: int, height: int, scaling: Scaling) -> list[View]:
    """The plan that looks at the image once, as a whole."""
    return [View(scaling.window(width, height), scaling.size_of(width, height))]


def objects_shown(views: Sequence[View], boxes_N4: Floats, min_visibility: float) -> Bool:
    """Which boxes are objects of which views: what else a view shows of them teaches nobody what they are.

    At least ``min_visibility`` of a box's area is in the window, and at least a pixel of the view of each
    side, and its size is one that the view answers for.

    Args:
        views: V of an image.
        boxes_N4: in the image's pixels.
        min_visibility: see above.

    Returns:
        (V, N).

    """
    windows = np.array([view.window for view in views]).T[:, :, None]
    sizes = np.array([view.size for view in views]).T[:, :, None]
    _, seen, share = visible_part(crop_boxes(boxes_N4, windows, sizes), sizes)
    low, high = np.array([view.object_sizes for view in views], boxes_N4.dtype).T[:, :, None]
    size = object_size(boxes_N4)
    objects: Bool = seen & (share >= min_visibility) & (size >= low) & (size < high)
    return objects


def views_with_objects(views: Sequence[View], boxes_N4: Floats, min_visibility: float) -> Bool:
    """Which views have at least one object, by the rule of :func:`objects_shown`.

    A scene has thousands of both: views are compared with the boxes near them.

    Args:
        views: V of an image.
        boxes_N4: in the image's pixels.
        min_visibility: share of a box's area.

    Returns:
        (V,).

    """
    if len(views) * len(boxes_N4) <= PAIRS:
        return np.asarray(objects_shown(views, boxes_N4, min_visibility).any(axis=1))
    columns: dict[tuple[int, int], list[int]] = {}
    for number, view in enumerate(views):
        columns.setdefault((view.window[0], view.window[2]), []).append(number)
    found, along_x = np.zeros(len(views), np.bool_), AlongAxis(boxes_N4, 0)
    for (left, right), column in columns.items():
        boxes = boxes_N4[along_x.near(left, right)]
        along_y = AlongAxis(boxes, 1)
        for numbers in (column[start : start + ROWS] for start in range(0, len(column), ROWS)):
            some = [views[number] for number in numbers]
            top, bottom = min(view.window[1] for view in some), max(view.window[3] for view in some)
            near = boxes[along_y.near(top, bottom)]
            found[numbers] = objects_shown(some, near, min_visibility).any(axis=1)
    return found
