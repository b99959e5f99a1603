"""Images that are larger than memory: TIFF files of which only the parts that are looked at are decoded."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tilewise.arrays import Array
from tilewise.data.samples import Rgb, ToRgb, value_range
from tilewise.data.tiff import TiffImage
from tilewise.views.rendering import Rendering
from tilewise.views.view import View

KEPT_BYTES = 512 * 1024 * 1024
"""Decoded blocks that a scene keeps: three rows of them, 512 high and 100,000 wide, for a row of views."""

_LARGE_WINDOW = 64_000_000


class ScenePixels:
    """The pixels of a scene, indexed as a tensor of (3, H, W) uint8 is by slices; each index reads a window.

    Args:
        image: the file, or a reduced copy in it.
        convert: its samples to RGB.

    Attributes:
        shape: (3, H, W).
        decoded_blocks: how many tiles or strips have been decoded.

    """

    device = torch.device("cpu")
    nbytes = KEPT_BYTES

    def __init__(self, image: TiffImage, convert: ToRgb, device: torch.device | None = None):
        self._image, self._convert = image, convert
        self._onto = device or self.device
        self._blocks: OrderedDict[tuple[int, int], Rgb] = OrderedDict()
        self._kept = 0
        self._lock = threading.Lock()
        self.shape = (3, image.height, image.width)
        self.decoded_blocks = 0

    def to(self, device: torch.device) -> ScenePixels:
        """The same pixels, whose windows come on a device."""
        self._onto = device
        return self

    def __getitem__(self, key: tuple[slice, slice, slice]) -> Tensor:
        _, rows, columns = key
        top, bottom, _ = rows.indices(self.shape[1])
        left, right, _ = columns.indices(self.shape[2])
        window = np.empty((max(bottom - top, 0), max(right - left, 0), 3), np.uint8)
        high, wide = self._image.block_size
        if window.size:
            for row in range(top // high, -(-bottom // high)):
                for column in range(left // wide, -(-right // wide)):
                    block = self._block(row, column)
                    y, x = row * high, column * wide
                    window[
                        max(y - top, 0) : y - top + len(block), max(x - left, 0) : x - left + block.shape[1]
                    ] = block[max(top - y, 0) : bottom - y, max(left - x, 0) : right - x]
        return torch.from_numpy(window).permute(2, 0, 1).to(self._onto)

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

    def averaged(self, factor: int) -> Tensor:
        """The whole image, ``factor`` times smaller: (3, ⌈H / factor⌉, ⌈W / factor⌉) means of its pixels."""
        _, height, width = self.shape
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
        return torch.from_numpy(((sums + counts // 2) // counts).astype(np.uint8)).permute(2, 0, 1)


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

    """

    def __init__(self, path: Path, rendering: Rendering):
        file = path.open("rb")
        weakref.finalize(self, file.close)
        image = TiffImage(file)
        values = value_range(image, rendering)
        self.pixels = ScenePixels(image, ToRgb(image.layout, rendering, values))
        self._levels: dict[int, ScenePixels | Tensor] = {
            factor: ScenePixels(copy, ToRgb(copy.layout, rendering, values))
            for factor, copy in image.reduced().items()
        }

    def to(self, device: torch.device) -> Scene:
        """The same scene, whose windows come on a device."""
        for level in (self.pixels, *self._levels.values()):
            if isinstance(level, ScenePixels):
                level.to(device)
        return self

    def seen_by(self, view: View) -> tuple[ScenePixels | Tensor, int]:
        """Pixels that are fine enough for a view, and by how much they are reduced.

        Those of a reduced copy in the file; without one a scene that is looked at as a whole is averaged,
        once, while its blocks are read.
        """
        most = int(1 / max(view.scale)) if max(view.scale) <= 1 else 1
        factor = max((factor for factor in self._levels if factor <= most), default=1)
        x0, y0, x1, y1 = view.window
        _, height, width = self.pixels.shape
        area = (min(x1, width) - max(x0, 0)) * (min(y1, height) - max(y0, 0))
        if area // factor**2 > _LARGE_WINDOW and most > factor:
            factor = min(most, 4096)
            self._levels[factor] = self.pixels.averaged(factor)
        return self._levels.get(factor, self.pixels), factor
