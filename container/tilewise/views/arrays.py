"""Windows of images as arrays, cut and scaled by NumPy and OpenCV alone: what serves needs no PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from tilewise.arrays import Array, Float32

FILL = (123, 117, 104)
"""RGB of what lies outside an image: the mean of ImageNet, as SSD's zoom-out has it."""

Window = tuple[int, int, int, int]
"""``x0, y0, x1, y1`` in whole pixels of the upright image."""

BLOCK = 16
"""So many rows are made at once: a product of matrices whose operands stay in a core's cache."""


class WindowedPixels(ABC):
    """An image that is larger than memory, of which windows are read."""

    width: int
    height: int
    upload: Callable[[Array], Any]

    @abstractmethod
    def read(self, window: Window) -> Array:
        """(3, h, w) uint8 of a window inside the image."""

    def part(self, window: Window) -> tuple[Any, Window]:
        """What a window shows of the image, uploaded, and where the window lies in it."""
        x0, y0, x1, y1 = window
        left, top, right, bottom = within(window, self.width, self.height)
        return self.upload(self.read((left, top, right, bottom))), (x0 - left, y0 - top, x1 - left, y1 - top)


def within(window: Window, width: int, height: int) -> Window:
    """The part of a window that lies in an image of a size; empty where none does."""
    x0, y0, x1, y1 = window
    left, top = min(max(x0, 0), width), min(max(y0, 0), height)
    return left, top, max(min(x1, width), left), max(min(y1, height), top)


def cut_array(image: Array, window: Window, size: tuple[int, int]) -> Array:
    """Cut a window out of an image and scale it, bilinear, antialiased, as Pillow does it.

    Args:
        image: (3, H, W) uint8; fastest where its memory has the colours last.
        window: it may reach beyond the image.
        size: (width, height) to scale it to.

    Returns:
        (3, height, width) uint8, memory of its own with the colours last.

    """
    x0, y0, x1, y1 = window
    pixels = np.moveaxis(image, 0, 2)
    left, top, right, bottom = within(window, pixels.shape[1], pixels.shape[0])
    inside = pixels[top:bottom, left:right]
    if y_first(x1 - x0, y1 - y0, size):
        down = _scale_rows(amid_fill(inside, 0, max(-y0, 0), y1 - y0), size[1])
        across = _scale_rows(amid_fill(_transpose(down), 0, max(-x0, 0), x1 - x0), size[0])
        return np.moveaxis(_transpose(across), 2, 0)
    across = _scale_rows(amid_fill(_transpose(inside), 0, max(-x0, 0), x1 - x0), size[0])
    scaled = _scale_rows(amid_fill(_transpose(across), 0, max(-y0, 0), y1 - y0), size[1])
    return np.moveaxis(scaled, 2, 0)


def mirror_array(pixels: Array) -> Array:
    """(3, H, W) uint8 mirrored left to right, memory of its own with the colours last."""
    mirrored: Array = np.moveaxis(cv2.flip(np.moveaxis(pixels, 0, 2), 1), 2, 0)
    return mirrored


def y_first(width: int, height: int, size: tuple[int, int]) -> bool:
    """Whether y is scaled before x. Pillow begins with x; here an axis that shrinks precedes one that grows.

    Else 4 x 5,000,000 pixels would be 320 x 5,000,000 in between.
    """
    return width < size[0] and height > size[1]


def _transpose(pixels_HW3: Array) -> Array:
    """(H, W, 3) -> (W, H, 3), in memory of its own."""
    turned: Array = cv2.transpose(pixels_HW3) if pixels_HW3.size else np.swapaxes(pixels_HW3, 0, 1)
    return turned


def amid_fill(pixels_HW3: Array, axis: int, before: int, length: int) -> Array:
    """``before`` times :data:`FILL`, the pixels, and more of it: of a length along axis 0 or 1."""
    if pixels_HW3.shape[axis] == length:
        return pixels_HW3
    first = min(before, length)
    after = length - first - pixels_HW3.shape[axis]
    (top, left), (bottom, right) = ((each, 0) if axis == 0 else (0, each) for each in (first, after))
    if pixels_HW3.size:  # OpenCV fills margins 50 times as fast as NumPy
        border = cv2.BORDER_CONSTANT
        return np.asarray(cv2.copyMakeBorder(pixels_HW3, top, bottom, left, right, border, value=FILL))
    height, width, _ = pixels_HW3.shape
    return np.full((top + height + bottom, left + width + right, 3), FILL, pixels_HW3.dtype)


def _scale_rows(rows_N: Array, count: int) -> Array:
    """(N, M, 3) uint8 -> (count, M, 3): each a weighted mean of rows that lie near it."""
    if len(rows_N) == count:
        return rows_N
    flat = rows_N.reshape(len(rows_N), -1)
    scaled = np.empty((count, flat.shape[1]), np.uint8)
    for number, (first, last, weights) in enumerate(_weights(len(rows_N), count)):
        means = weights @ flat[first:last].astype(np.float32)
        means += 0.5  # what follows rounds down
        scaled[number * BLOCK : number * BLOCK + len(weights)] = means
    return scaled.reshape(count, *rows_N.shape[1:])


@lru_cache(maxsize=64)
def _weights(length: int, count: int) -> list[tuple[int, int, Float32]]:
    """For each :data:`BLOCK` of new rows the old ones from the first to the last, and their weights.

    Pillow's (Resample.c): a triangle as wide as two new rows, or as two old ones where these are wider.
    """
    scale = length / count
    support = max(scale, 1.0)
    centres = (np.arange(count) + 0.5) * scale
    starts = (centres - support + 0.5).astype(np.int64).clip(min=0)
    ends = (centres + support + 0.5).astype(np.int64).clip(max=length)
    blocks = []
    for row in range(0, count, BLOCK):
        some = slice(row, row + BLOCK)
        first, last = int(starts[some].min()), int(ends[some].max())
        places = np.arange(first, last)
        weights = (1 - np.abs(places + 0.5 - centres[some, None]) / support).clip(min=0)
        weights[(places < starts[some, None]) | (places >= ends[some, None])] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        blocks.append((first, last, weights.astype(np.float32)))
    return blocks
