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
from tilewise.data.samples import Rgb, ToRgb, value_range
from tilewise.data.tiff import TiffImage
from tilewise.views.arrays import Window, WindowedPixels
from tilewise.views.rendering import Rendering
from tilewise.views.view import View

KEPT_BYTES = 512 * 1024 * 1024
"""Decoded blocks that a scene keeps: three rows of them, 512 high and 100,000 wide, for a row of views."""

_LARGE_WINDOW = 64_000_000


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

    def averaged(self, factor: int) -> Array:
        """The whole image, ``factor`` times smaller: (3, ⌈H / factor⌉, ⌈W / factor⌉) means of its pixels."""
        height, width = self.height, self.width
        sums = np.zeros(
            (-(-height // factor), -(-width // factor), 3), np.uint64 if factor > 4096 else np.uint32
        )
        for top, left, block in self._image.blocks():
            rgb = self._convert(block)
            self.decoded_blocks += 1
            rows, columns = _steps(top, len(rgb), factor), _steps(left, rgb.shape[1], factor)
            part = np.add.reduceat(np.add.reduceat(rgb, rows, axis=0, dtype=np.uint32), columns, axis=1)
            y, x = top // factor, left // factor
            sums[y : y + part.shape[0], x : x + part.shape[1]] += part
        counts = np.outer(_counts(height, factor), _counts(width, factor))[:, :, None]
        return np.moveaxis(((sums + counts // 2) // counts).astype(np.uint8), 2, 0)


def _steps(start: int, length: int, factor: int) -> Array:
    """Where, of ``length`` pixels from ``start`` on, those of the next pixel of the reduced image begin."""
    first = -start % factor
    return np.unique(np.concatenate([[0], np.arange(first, length, factor)]))


def _counts(length: int, factor: int) -> Array:
    return np.minimum(factor, length - np.arange(0, length, factor)).astype(np.uint32)


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
        self._levels: dict[int, ScenePixels | Array] = {
            factor: ScenePixels(copy, ToRgb(copy.layout, rendering, values))
            for factor, copy in image.reduced().items()
        }

    def seen_by(self, view: View) -> tuple[Any, int]:
        """Pixels that are fine enough for a view, and by how much they are reduced.

        Those of a reduced copy in the file; without one a scene that is looked at as a whole is averaged,
        once, while its blocks are read.
        """
        most = int(1 / max(view.scale)) if max(view.scale) <= 1 else 1
        factor = max((factor for factor in self._levels if factor <= most), default=1)
        x0, y0, x1, y1 = view.window
        height, width = self.pixels.height, self.pixels.width
        area = (min(x1, width) - max(x0, 0)) * (min(y1, height) - max(y0, 0))
        if area // factor**2 > _LARGE_WINDOW and most > factor:
            factor = min(most, 4096)
            self._levels[factor] = self.pixels.averaged(factor)
        level = self._levels.get(factor, self.pixels)
        if isinstance(level, ScenePixels):
            level.upload = self.upload
            return level, factor
        return self.upload(level), factor
