"""Stored samples of any depth -> 8-bit RGB, in bands of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from tilewise.arrays import Array
from tilewise.errors import UserError
from tilewise.views.rendering import Rendering

Rgb = npt.NDArray[np.uint8]

BAND_PIXELS = 1 << 16
"""So many pixels are converted at a time: what that needs beside the image stays small."""

SAMPLE_PIXELS = 1 << 20
"""So many pixels, evenly spread, tell an image's percentiles."""

OUTLIERS = 0.001
"""This share of the values at either end sets no range: hot pixels, reflections, dead detectors."""


class DecodeError(UserError):
    """The bytes are not an image that can be decoded."""


_BYTE = np.dtype(np.uint8)
_MANY_BYTES = 6


@dataclass(frozen=True)
class Layout:
    """How the samples of an image's pixels are stored.

    Attributes:
        bands: samples of a pixel, alpha not counted.
        dtype: of each sample, in the machine's own byte order.
        known_range: the values of black and white, where the format states them: from 0 to the largest value
            of so many bits. 16 bits and more state nothing: cameras leave some of them empty.
        alpha: whether a last sample is the pixel's opacity, and whether the colours are multiplied with it.
        inverted: whether small values are bright (TIFF's MinIsWhite).
        nodata: the value of pixels that were not measured.

    """

    bands: int = 3
    dtype: np.dtype[Any] = _BYTE
    known_range: tuple[float, float] | None = (0.0, 255.0)
    alpha: Literal["", "straight", "premultiplied"] = ""
    inverted: bool = False
    nodata: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the samples are 8-bit RGB already."""
        return self == Layout()

    def chosen(self, rendering: Rendering) -> tuple[int, ...]:
        """The indices of the bands that are shown, three or one.

        Raises:
            DecodeError: ``rendering`` asks for one that is not there.

        """
        if rendering.bands is None:
            return (0, 1, 2) if self.bands >= 3 else (0,)
        if max(rendering.bands) > self.bands:
            asked = ",".join(map(str, rendering.bands))
            raise DecodeError(
                f"bands={asked} asks for band {max(rendering.bands)}, but the image has {self.bands}"
            )
        return tuple(band - 1 for band in rendering.bands)


def known_bits(bits: int) -> tuple[float, float] | None:
    """The range of unsigned integers of so many significant bits; see :attr:`Layout.known_range`."""
    return (0.0, float(2**bits - 1)) if bits < 16 else None


Block = tuple[int, int, Array]
"""Where a part of an image begins, from the top and from the left, and its (h, w, bands and alpha)."""


class Samples(Protocol):
    """An image's samples, as they are stored, to be had in small parts."""

    width: int
    height: int
    layout: Layout

    def blocks(self) -> Iterator[Block]:
        """The whole image, part by part."""

    def spread(self) -> Iterator[Array]:
        """Parts from all over the image, thinned out: some :data:`SAMPLE_PIXELS`, or all if it has fewer."""


class RowSamples(ABC):
    """Samples whose rows can be had in any order."""

    def __init__(self, width: int, height: int, layout: Layout):
        self.width, self.height, self.layout = width, height, layout

    @abstractmethod
    def rows(self, top: int, bottom: int) -> Array:
        """(bottom - top, width, bands and alpha)."""

    def blocks(self) -> Iterator[Block]:
        """See :class:`Samples`."""
        step = max(1, BAND_PIXELS // self.width)
        for top in range(0, self.height, step):
            yield top, 0, self.rows(top, min(top + step, self.height))

    def spread(self) -> Iterator[Array]:
        """See :class:`Samples`."""
        rows = min(self.height, max(1024, SAMPLE_PIXELS // self.width), 8192)
        step = max(1, self.width * rows // SAMPLE_PIXELS)
        for top in np.linspace(0, self.height - 1, rows).astype(int).tolist():
            yield self.rows(top, top + 1)[:, ::step]


class ArraySamples(RowSamples):
    """Samples in memory, (height, width) or (height, width, bands and alpha)."""

    def __init__(self, array: Array, layout: Layout):
        super().__init__(array.shape[1], array.shape[0], layout)
        self.array = array[:, :, None] if array.ndim == 2 else array

    def rows(self, top: int, bottom: int) -> Array:
        """See :class:`RowSamples`."""
        return self.array[top:bottom]

    @property
    def own_room(self) -> bool:
        """Whether the samples' own memory is nobody else's, and has at least twice the room of RGB."""
        owner = self._owner
        plain = owner.flags.owndata and owner.flags.writeable and owner.flags.c_contiguous
        return bool(plain and owner.nbytes >= _MANY_BYTES * self.width * self.height)

    @property
    def _owner(self) -> Array:
        return self.array if self.array.base is None else self.array.base

    def turn_into(self, convert: Callable[[Array], Rgb]) -> Rgb:
        """All rows through ``convert``, (height, width, 3), in the memory of the samples, which are lost."""
        owner, shape = self._owner, (self.height, self.width, 3)
        count = 3 * self.width * self.height
        pixels = owner.reshape(-1).view(np.uint8)[:count].reshape(shape)
        for top, _, rows in self.blocks():  # what is written never reaches what is still to be read
            pixels[top : top + len(rows)] = convert(rows)
        del pixels, rows, self.array
        owner.resize(-(-count // owner.itemsize), refcheck=False)  # gives back what is left
        return owner.view(np.uint8)[:count].reshape(shape)


def value_range(samples: Samples, rendering: Rendering) -> tuple[float, float]:
    """The values that become 0 and 255: one pair for all bands, so that colours keep their proportions.

    Those that ``rendering`` names; else those that the format states; else the percentiles of the bands that
    are shown, without what was not measured and what is transparent.
    """
    layout = samples.layout
    deep = layout.dtype.itemsize > 1
    if deep and rendering.pixel_range:
        return rendering.pixel_range
    if layout.known_range:
        return layout.known_range
    chosen = list(layout.chosen(rendering))
    parts = [_measured(block, chosen, layout) for block in samples.spread()]
    values = np.concatenate([*parts, np.empty(0, layout.dtype)])
    if not values.size:
        return 0.0, 0.0
    first = int(OUTLIERS * values.size)
    last = values.size - 1 - first
    values.partition([first, last])
    return float(values[first]), float(values[last])


def _measured(block: Array, chosen: list[int], layout: Layout) -> Array:
    """The values of a block that tell something of its image's range, (N,)."""
    values = block[:, :, chosen]
    good = ~_missing(values, layout)
    if layout.dtype.kind == "f":
        good &= np.isfinite(values)
    if layout.alpha:
        good &= block[:, :, -1:] != 0
    return np.asarray(values[good])


def _missing(values: Array, layout: Layout) -> npt.NDArray[np.bool_]:
    """Which values stand for something that was not measured."""
    floats = layout.dtype.kind == "f"
    missing = np.isnan(values) if floats else np.zeros(values.shape, bool)
    if layout.nodata is not None:
        with np.errstate(over="ignore"):
            missing |= values == (layout.dtype.type(layout.nodata) if floats else layout.nodata)
    return np.asarray(missing)


class ToRgb:
    """Turns blocks of samples into RGB.

    Values from the range's start to its end become 0 to 255, what lies beyond is cut off; what was not
    measured becomes black, and what is transparent lies over white.

    Args:
        layout: of the blocks.
        rendering: chooses bands.
        values: see :func:`value_range`.

    """

    def __init__(self, layout: Layout, rendering: Rendering, values: tuple[float, float]):
        self.layout = layout
        self.low, self.high = values
        self.chosen = layout.chosen(rendering)

    def __call__(self, block: Array) -> Rgb:
        """(h, w, bands and alpha) -> (h, w, 3)."""
        first, *others = self.chosen
        adjacent = list(self.chosen) == list(range(first, first + len(self.chosen)))
        picked = block[:, :, first : first + len(self.chosen)] if adjacent else block[:, :, self.chosen]
        shown = self._to_bytes(picked)
        if not others:
            shown = np.repeat(shown, 3, axis=2)
        return _over_white(shown, self._opacity(block), self.layout.alpha) if self.layout.alpha else shown

    def _to_bytes(self, values: Array) -> Rgb:
        if self._table is None:
            return self._scaled(values)
        kind = np.uint8 if self.layout.dtype.itemsize == 1 else np.uint16
        return np.take(self._table, np.ascontiguousarray(values).view(kind))

    @cached_property
    def _table(self) -> Rgb | None:
        """What each value of 8 or 16 bits becomes; None for others."""
        dtype = self.layout.dtype
        if dtype.itemsize > 2 or dtype.kind not in "uib":
            return None
        bits = np.arange(256 if dtype.itemsize == 1 else 65536)
        return self._scaled(bits.astype(np.uint8 if dtype.itemsize == 1 else np.uint16).view(dtype))

    def _scaled(self, values: Array) -> Rgb:
        wide = np.float64 if self.layout.dtype.itemsize > 2 else np.float32
        scaled: npt.NDArray[np.floating[Any]] = values.astype(wide)
        missing = _missing(values, self.layout)
        if self.high > self.low:
            scaled -= wide(self.low)
            scaled *= wide(255.0 / (self.high - self.low))
            np.clip(scaled, 0, 255, out=scaled)
        else:
            missing[:] = True
        if self.layout.inverted:
            np.subtract(255, scaled, out=scaled)
        scaled[missing] = 0
        return np.asarray(np.round(scaled).astype(np.uint8))

    def _opacity(self, block: Array) -> Rgb:
        alpha = block[:, :, -1]
        if alpha.dtype == np.uint8:
            return np.asarray(alpha)
        kind, known = self.layout.dtype.kind, self.layout.known_range
        largest = 1.0 if kind == "f" else known[1] if known else float(np.iinfo(self.layout.dtype).max)
        scaled = np.clip(np.nan_to_num(alpha.astype(np.float64) * (255.0 / largest)), 0, 255)
        return np.asarray(np.round(scaled).astype(np.uint8))


def _over_white(rgb: Rgb, alpha: Rgb, kind: str) -> Rgb:
    if kind == "premultiplied":
        laid = np.minimum(rgb + (255 - alpha[:, :, None].astype(np.uint16)), 255)
        return np.asarray(laid.astype(np.uint8))
    layer = Image.fromarray(np.dstack([rgb, alpha]))
    return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))


def to_rgb(samples: Samples, rendering: Rendering) -> Rgb:
    """All of an image's pixels, (height, width, 3); beside them little more than the samples is in memory."""
    if samples.layout.plain and rendering.bands is None and isinstance(samples, ArraySamples):
        return np.asarray(samples.array)
    convert = ToRgb(samples.layout, rendering, value_range(samples, rendering))
    if isinstance(samples, ArraySamples) and samples.own_room:
        return samples.turn_into(convert)
    pixels = np.empty((samples.height, samples.width, 3), np.uint8)
    for top, left, block in samples.blocks():
        height, width = block.shape[:2]
        step = max(1, BAND_PIXELS // width)
        for start in range(0, height, step):
            rows = block[start : start + step]
            pixels[top + start : top + start + len(rows), left : left + width] = convert(rows)
    return pixels
