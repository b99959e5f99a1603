"""Images that are larger than memory: TIFF files of which only the parts that are looked at are decoded."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tilewise.arrays import Array
from tilewise.data.decoding.stored_samples import Rgb, ToRgb, value_range
from tilewise.data.decoding.tiff import TiffImage
from tilewise.views.arrays import Window, WindowedPixels
from tilewise.views.rendering import Rendering
from tilewise.views.view import View

KEPT_BYTES = 192 * 1024 * 1024
"""Decoded blocks that a scene keeps: a row, 512 high and 100,000 wide; a prediction stays below 2 GB."""

_LARGE_WINDOW = 64_000_000
_BAND_BYTES = 64 * 1024 * 1024


class ScenePixels(WindowedPixels):
    """The pixels of a scene, of which windows are read as views need them.

    Args:
        image: the file, or a reduced copy in it.
        convert: its samples to RGB.

    Attributes:
        width, height: as they are stored.
        decoded_blocks: how many tiles or strips have been decoded.

    """

    def __init__(self, image: TiffImage, convert: ToRgb):
        self._image, self._convert = image, convert
        self._blocks: OrderedDict[tuple[int, int], Rgb] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()
        self.width, self.height = image.width, image.height
        self.decoded_blocks = 0

    def read(self, window: Window) -> Array:
        """See :class:`tilewise.views.arrays.WindowedPixels`."""
        left, top, right, bottom = window
        pixels = np.empty((max(bottom - top, 0), max(right - left, 0), 3), np.uint8)
        high, wide = self._image.block_size
        if pixels.size:
            for row in range(top // high, -(-bottom // high)):
                for column in range(left // wide, -(-right // wide)):
                    block = self._block(row, column)
                    y, x = row * high, column * wide
                    pixels[
                        max(y - top, 0) : y - top + len(block), max(x - left, 0) : x - left + block.shape[1]
                    ] = block[max(top - y, 0) : bottom - y, max(left - x, 0) : right - x]
        return np.moveaxis(pixels, 2, 0)

    def _block(self, row: int, column: int) -> Rgb:
        """A tile or strip as RGB, which stays for those who ask next."""
        with self._lock:
            if (row, column) in self._blocks:
                self._blocks.move_to_end((row, column))
                return self._blocks[row, column]
            block = self._convert(self._image.block(row, column))
            self.decoded_blocks += 1
            self._blocks[row, column] = block
            self._kept += block.nbytes
            while self._kept > KEPT_BYTES and len(self._blocks) > 1:
                self._kept -= self._blocks.popitem(last=False)[1].nbytes
            return block


class AveragedPixels(WindowedPixels):
    """The pixels of a scene, some times smaller: each is the mean of a square of them.

    Args:
        pixels: of the scene.
        factor: pixels of a square's side; those of the last column and row may be smaller.

    """

    def __init__(self, pixels: ScenePixels, factor: int):
        self._pixels, self._factor = pixels, factor
        self.width, self.height = -(-pixels.width // factor), -(-pixels.height // factor)

    def read(self, window: Window) -> Array:
        """See :class:`tilewise.views.arrays.WindowedPixels`."""
        left, top, right, bottom = window
        means = np.empty((bottom - top, right - left, 3), np.uint8)
        step = max(1, _BAND_BYTES // (3 * self._factor**2 * max(1, right - left)))
        for row in range(top, bottom, step):
            end = min(row + step, bottom)
            means[row - top : end - top] = self._means((left, row, right, end))
        return np.moveaxis(means, 2, 0)

    def _means(self, window: Window) -> Array:
        left, top, right, bottom = (self._factor * side for side in window)
        right, bottom = min(right, self._pixels.width), min(bottom, self._pixels.height)
        rows, columns = np.arange(0, bottom - top, self._factor), np.arange(0, right - left, self._factor)
        pixels = np.moveaxis(self._pixels.read((left, top, right, bottom)), 0, 2)
        sums = np.add.reduceat(pixels, rows, axis=0, dtype=np.uint32)
        sums = np.add.reduceat(sums, columns, axis=1, dtype=np.uint64)
        counts = np.outer(np.diff(rows, append=bottom - top), np.diff(columns, append=right - left))
        counts = counts.astype(np.uint64)[:, :, None]
        return (sums + counts // 2) // counts


class Scene:
    """A TIFF file that is read by windows; see :class:`ScenePixels`.

    Args:
        path: the file. It stays open as long as the scene lives.
        rendering: as for all images; percentiles are those of the whole scene.

    Attributes:
        pixels: of the whole scene.
        upload: brings what has been read to where views are cut from it.

    """

    def __init__(self, path: Path, rendering: Rendering):
        file = path.open("rb")
        weakref.finalize(self, file.close)
        image = TiffImage(file)
        values = value_range(image, rendering)
        self.upload: Callable[[Array], Any] = lambda pixels: pixels
        self.pixels = ScenePixels(image, ToRgb(image.layout, rendering, values))
        self._copies = {
            factor: ScenePixels(copy, ToRgb(copy.layout, rendering, values))
            for factor, copy in image.reduced().items()
        }

    def seen_by(self, view: View) -> tuple[WindowedPixels, int]:
        """Pixels that are fine enough for a view, and by how much they are reduced.

        Those of a reduced copy in the file; where none suffices, a window that is large is averaged while its
        blocks are read.
        """
        most = int(1 / max(view.scale)) if max(view.scale) <= 1 else 1
        factor = max((factor for factor in self._copies if factor <= most), default=1)
        pixels: WindowedPixels = self._copies.get(factor, self.pixels)
        x0, y0, x1, y1 = view.window
        height, width = self.pixels.height, self.pixels.width
        area = (min(x1, width) - max(x0, 0)) * (min(y1, height) - max(y0, 0))
        if area // factor**2 > _LARGE_WINDOW and most > factor:
            factor = most
            pixels = AveragedPixels(self.pixels, factor)
        pixels.upload = self.upload
        return pixels, factor
