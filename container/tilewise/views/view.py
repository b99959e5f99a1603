from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from tilewise.arrays import Bool, Floats
from tilewise.boxes import clip_boxes, crop_boxes, object_size, visible_part
from tilewise.instances import Instances

FILL = (123, 117, 104)
"""RGB of what lies outside an image: the mean of ImageNet, as SSD's zoom-out has it."""

Window = tuple[int, int, int, int]
"""``x0, y0, x1, y1`` in whole pixels of the upright image."""

SizeRange = tuple[float, float]
"""Object sizes, √area in pixels of the upright image: from the first up to, not including, the second."""

ANY_SIZE: SizeRange = (0.0, math.inf)

BAND_BYTES = 16 * 1024 * 1024
"""Larger windows are scaled in bands: what scaling needs beside the pixels stays this small."""


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


@dataclass(frozen=True)
class View:
    """What the model is to look at: a window of an image, and the size it is scaled to.

    Boxes are arrays: to place the few of a view, tensors need three times as long. Pixels are tensors, on any
    device.

    Attributes:
        window: ``x0, y0, x1, y1`` in whole pixels of the upright image; it may reach beyond the image.
        size: (width, height) in pixels of what the model sees.
        object_sizes: the sizes of the objects that it answers for, √area in pixels of the upright image:
            objects of other sizes are ignored in training, and detections of other sizes are dropped.

    """

    window: Window
    size: tuple[int, int]
    object_sizes: SizeRange = ANY_SIZE

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
        x0, y0, x1, y1 = self.window
        grown = (x0 // factor, y0 // factor, -(-x1 // factor), -(-y1 // factor))
        return replace(self, window=tuple(factor * side for side in grown))  # type: ignore[arg-type]

    def boxes_from_image(self, boxes_N4: Floats) -> Floats:
        """Boxes in the image's pixels -> boxes in the view's pixels, not clipped."""
        return crop_boxes(boxes_N4, self.window, self.size)

    def boxes_to_image(self, boxes_N4: Floats) -> Floats:
        """Boxes in the view's pixels -> boxes in the image's pixels, not clipped."""
        return boxes_N4 / self._factor(boxes_N4) + self._offset(boxes_N4)

    def to_image(self, detections: Instances, width: int, height: int) -> Instances:
        """What was found in the view -> in the pixels of its image, cut at the image's border.

        Args:
            detections: in the view's pixels, on the CPU.
            width: pixels of the image.
            height: pixels of the image.

        """
        boxes = torch.from_numpy(clip_boxes(self.boxes_to_image(detections.boxes.numpy()), (width, height)))
        (x0, y0, _, _), (across, down) = self.window, self.scale
        image = (-x0 * across, -y0 * down, (width - x0) * across, (height - y0) * down)
        fields = {name: each.crop(image, (width, height)) for name, each in detections.fields.items()}
        return replace(detections, boxes=boxes, fields=fields)

    def answers_for(self, boxes_N4: Floats) -> Bool:
        """Which boxes, in the image's pixels, have a size in :attr:`object_sizes`. Returns (N,) bool."""
        smallest, largest = self.object_sizes
        sizes = object_size(boxes_N4)
        return np.asarray((sizes >= smallest) & (sizes < largest))

    def pixels_from_image(self, image: Tensor, factor: int = 1) -> Tensor:
        """Cut the window out of an image and scale it.

        Args:
            image: (3, H, W) uint8, on any device.
            factor: by how much the image has been reduced; the view must be :meth:`snapped` to it.

        Returns:
            (3, height, width) uint8 of :attr:`size`, memory of its own; what lies outside the image is
            :data:`FILL`.

        """
        x0, y0, x1, y1 = (side // factor for side in self.window)
        height, width = image.shape[-2:]
        inside = image[:, max(y0, 0) : max(min(y1, height), 0), max(x0, 0) : max(min(x1, width), 0)]
        if inside.shape[-2:] == (y1 - y0, x1 - x0):
            return _scale(inside, *self.size)
        # bilinear scaling goes along x and along y: the sides of the second need no scaling along the first
        for axis in _axis_order(x1 - x0, y1 - y0, self.size):
            before, length = ((-y0, y1 - y0), (-x0, x1 - x0))[axis - 1]
            filled = _amid_fill(inside, axis, max(before, 0), length)
            inside = _scale_axis(filled, axis, self.size[2 - axis])
        return inside

    def _offset(self, like: Floats) -> Floats:
        x0, y0, _, _ = self.window
        return np.array([x0, y0, x0, y0], like.dtype)

    def _factor(self, like: Floats) -> Floats:
        return np.array([*self.scale, *self.scale], like.dtype)


def _amid_fill(pixels: Tensor, axis: int, before: int, length: int) -> Tensor:
    """``before`` times :data:`FILL`, the pixels, and more of it: of a length along an axis of (3, H, W)."""
    shape = [*pixels.shape]
    shape[axis] = length
    _, height, width = shape
    fill = torch.tensor(FILL, dtype=pixels.dtype, device=pixels.device)
    # colours last, as images are decoded: so they are scaled several times as fast
    canvas = fill.repeat(width, 1).repeat(height, 1, 1).permute(2, 0, 1)
    canvas.narrow(axis, min(before, length), pixels.shape[axis]).copy_(pixels)
    return canvas


def _axis_order(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """X (axis 2) before y (axis 1), as Pillow has it; but an axis that shrinks before one that grows.

    Else 4 x 5,000,000 pixels would be 320 x 5,000,000 in between.
    """
    return (1, 2) if width < size[0] and height > size[1] else (2, 1)


def _scale(pixels: Tensor, width: int, height: int) -> Tensor:
    """(3, H, W) uint8 -> (3, height, width), bilinear, antialiased, as Pillow does it."""
    if pixels.shape[-2:] == (height, width):
        return pixels.clone()
    first, second = _axis_order(pixels.shape[2], pixels.shape[1], (width, height))
    if pixels.numel() <= BAND_BYTES and first == 2:
        return _resize(pixels, width, height)
    return _scale_axis(
        _scale_axis(pixels, first, (height, width)[first - 1]), second, (height, width)[second - 1]
    )


def _scale_axis(pixels: Tensor, axis: int, length: int) -> Tensor:
    """Scale along one axis of (3, H, W), a large image in bands along the other one."""
    across = 3 - axis
    size = [pixels.shape[1], pixels.shape[2]]
    size[axis - 1] = length
    lines = max(1, BAND_BYTES // (3 * pixels.shape[axis]))
    if pixels.shape[across] <= lines:
        return _resize(pixels, size[1], size[0])
    # colours last, as images are decoded
    scaled = torch.empty((*size, 3), dtype=pixels.dtype, device=pixels.device)
    for start in range(0, pixels.shape[across], lines):
        band = pixels.narrow(across, start, min(lines, pixels.shape[across] - start))
        sides = [band.shape[1], band.shape[2]]
        sides[axis - 1] = length
        into = scaled.narrow(across - 1, start, band.shape[across])
        into.copy_(_resize(band, sides[1], sides[0]).permute(1, 2, 0))
    return scaled.permute(2, 0, 1)


def _resize(pixels: Tensor, width: int, height: int) -> Tensor:
    # a window's rows lie apart in its image's memory: PyTorch scales them twice as fast side by side
    side_by_side = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    scaled: Tensor = F.resize(side_by_side, [height, width], antialias=True)
    return scaled


def whole_image(width: int, height: int, scaling: Scaling) -> list[View]:
    """The plan that looks at the image once, as a whole."""
    return [View((0, 0, width, height), scaling.size_of(width, height))]


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
