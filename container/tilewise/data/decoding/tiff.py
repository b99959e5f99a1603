"""TIFF, BigTIFF and GeoTIFF, read by strips and tiles, of any depth, layout and compression."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import IO, Any, Literal

import numpy as np
import tifffile
from PIL import Image
from tifffile import PHOTOMETRIC, TiffPage

from tilewise.arrays import Array
from tilewise.data.decoding.codestreams import jpeg2000_frame, jpeg_size
from tilewise.data.decoding.stored_samples import SAMPLE_PIXELS, Block, DecodeError, Layout, known_bits

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters of a damaged file raises

_JPEG = (6, 7, 33007, 34892)
_JPEG2000 = (33003, 33004, 33005, 34712)
_UNCOMPRESSED = 1
_NODATA, _DNG_VERSION, _ORIENTATION, _NEW_SUBFILE_TYPE = 42113, 50706, 274, 254
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_CIE_LAB = (8, 9, 10)
_RAW_BYTES = 1024 * 1024
_SPREAD_BLOCKS = 64
_KEPT_BYTES = 8 * 1024 * 1024
_GOLDEN = 0.6180339887498949


class TiffImage:
    """The first image of a TIFF file as :class:`.stored_samples.Samples`, not turned upright.

    Its blocks are tiles or strips; an uncompressed strip is several of them. Safe for several threads.

    Args:
        file: the whole file, open or in memory.
        page: of an image's :attr:`reduced` copies; None for the image itself.

    Attributes:
        width, height: pixels as they are stored.
        layout: of the samples; palettes, CMYK and YCbCr come as 8-bit RGB.

    Raises:
        DecodeError: its samples are no real numbers, or those of a camera's sensor.
        Exception: the file is damaged.

    """

    def __init__(self, file: IO[bytes] | bytes, page: TiffPage | None = None):
        self._file = io.BytesIO(file) if isinstance(file, bytes) else file
        self._tiff = page.parent if page else tifffile.TiffFile(self._file)
        self._lock = threading.Lock()
        self._kept: dict[int, Array] = {}
        self.page = page or self._first_page()
        page = self.page
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        self.layout = self._layout()
        self._raw = self._is_raw()
        planes = self._planes
        if page.is_tiled:
            self._size = int(page.tilelength), int(page.tilewidth)
        elif self._raw:
            row = self.width * page.dtype.itemsize * (1 if planes > 1 else int(page.samplesperpixel))  # type: ignore[union-attr]
            self._size = min(self.height, max(1, _RAW_BYTES // max(1, row))), self.width
        else:
            self._size = min(int(page.rowsperstrip), self.height), self.width
        self._grid = -(-self.height // self._size[0]), -(-self.width // self._size[1])

    def _first_page(self) -> TiffPage:
        """The first page, but for the preview of another one that cameras put there."""
        first = self._tiff.pages.first
        if _DNG_VERSION in first.tags or first.photometric == PHOTOMETRIC.CFA:
            raise DecodeError("it is a camera's raw image: develop it into a JPEG, PNG or TIFF file first")
        if _subfile_type(first) & _REDUCED:
            pages = (page for page in self._tiff.pages if isinstance(page, TiffPage))
            return next((page for page in pages if not _subfile_type(page) & _REDUCED), first)
        return first

    @cached_property
    def pages(self) -> int:
        """How many images the file has, reduced copies and masks not counted."""
        pages = (page for page in self._tiff.pages if isinstance(page, TiffPage))
        return sum(not _subfile_type(page) & (_REDUCED | _MASK) for page in pages)

    @property
    def orientation(self) -> int:
        """As EXIF numbers it; 1 where the file says nothing, or nonsense."""
        value = self.page.tags.valueof(_ORIENTATION, 1)
        return value if value in range(1, 9) else 1

    @property
    def bands(self) -> int:
        """Samples of a stored pixel, alpha not counted."""
        return int(self.page.samplesperpixel) - bool(self._alpha)

    @property
    def block_size(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        return self._size

    @property
    def block_pixels(self) -> int:
        """So many pixels are decoded at once."""
        return self._size[0] * self._size[1]

    @property
    def can_be_read_by_parts(self) -> bool:
        """Whether a part of it costs but a part of it: it has several blocks."""
        return not self.read_by_pillow and self._grid != (1, 1) and self.orientation == 1

    @property
    def read_by_pillow(self) -> bool:
        """Whether its colours are among those that tifffile leaves as they are, and Pillow converts."""
        page = self.page
        subsampled = page.photometric == PHOTOMETRIC.YCBCR and page.compression not in _JPEG
        return subsampled or page.photometric in _CIE_LAB

    def _layout(self) -> Layout:
        page = self.page
        if page.dtype is None or page.dtype.kind not in "uifb" or not isinstance(page.bitspersample, int):
            raise DecodeError(
                f"its samples of {page.bitspersample} bits are neither integers nor real numbers"
            )
        if page.photometric in (PHOTOMETRIC.PALETTE, PHOTOMETRIC.SEPARATED):
            return Layout()
        bits = page.bitspersample
        dtype = np.dtype(np.uint8) if page.dtype == bool else np.dtype(page.dtype).newbyteorder("=")
        known = (-128.0, 127.0) if dtype == np.int8 else known_bits(bits) if dtype.kind == "u" else None
        return Layout(
            bands=self.bands,
            dtype=dtype,
            known_range=known,
            alpha=self._alpha,
            inverted=page.photometric == PHOTOMETRIC.MINISWHITE,
            nodata=self._nodata if bits > 8 else None,
        )

    @property
    def _alpha(self) -> Literal["", "straight", "premultiplied"]:
        kinds: dict[int, Literal["straight", "premultiplied"]] = {1: "premultiplied", 2: "straight"}
        extra = self.page.extrasamples
        return kinds.get(int(extra[-1]), "") if extra else ""

    @property
    def _nodata(self) -> float | None:
        try:
            return float(str(self.page.tags.valueof(_NODATA)).strip("\0 \n"))
        except ValueError:
            return None

    @property
    def _planes(self) -> int:
        page = self.page
        return int(page.samplesperpixel) if page.planarconfig == 2 and page.samplesperpixel > 1 else 1

    def _is_raw(self) -> bool:
        """Whether rows lie in the file as they are, so that a part of a strip can be read."""
        page = self.page
        whole_bytes = page.bitspersample in (8, 16, 32, 64) and page.fillorder == 1
        return bool(
            not page.is_tiled and page.compression == _UNCOMPRESSED and page.predictor == 1 and whole_bytes
        )

    def blocks(self) -> Iterator[Block]:
        """See :class:`tilewise.data.decoding.stored_samples.Samples`."""
        rows, columns = self._grid
        for index in range(rows * columns):
            row, column = divmod(index, columns)
            yield row * self._size[0], column * self._size[1], self.block(row, column)

    def spread(self) -> Iterator[Array]:
        """See :class:`tilewise.data.decoding.stored_samples.Samples`."""
        rows, columns = self._grid
        wanted = max(_SPREAD_BLOCKS, -(-SAMPLE_PIXELS // self.block_pixels))
        # steps of the golden ratio visit a grid evenly, whatever its shape
        visited = range(rows * columns)
        if wanted < len(visited):
            visited = sorted({int(n * _GOLDEN % 1 * len(visited)) for n in range(wanted)})  # type: ignore[assignment]
        step = max(1, int((len(visited) * self.block_pixels / SAMPLE_PIXELS) ** 0.5))
        for index in visited:
            yield self.block(*divmod(index, columns))[::step, ::step]

    def block(self, row: int, column: int) -> Array:
        """The block at a place of the grid, cut at the image's border: (h, w, bands and alpha).

        Raises:
            Exception: it is damaged.

        """
        key = row * self._grid[1] + column
        if key in self._kept:
            return self._kept[key]
        top, left = row * self._size[0], column * self._size[1]
        height, width = min(self._size[0], self.height - top), min(self._size[1], self.width - left)
        read = self._raw_rows if self._raw else self._segment
        planes = [read(plane, row, column)[:height, :width] for plane in range(self._planes)]
        block = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        block = self._as_layout(block.view(np.uint8) if block.dtype == bool else block)
        if self.width * self.height * block.itemsize * block.shape[2] <= _KEPT_BYTES:
            self._kept[key] = block
        return block

    def _segment(self, plane: int, row: int, column: int) -> Array:
        """A strip or tile, decoded."""
        page, (rows, columns) = self.page, self._grid
        depth = (
            -(-int(page.imagedepth) // int(page.tiledepth or 1)) if page.is_tiled else int(page.imagedepth)
        )
        index = plane * rows * columns * depth + row * columns + column
        data = self._read(page.dataoffsets[index], page.databytecounts[index])
        if data is None:
            samples = 1 if self._planes > 1 else int(page.samplesperpixel)
            fill = 0 if self.layout.nodata is None else self.layout.nodata
            return np.full((*self._size, samples), fill, page.dtype)
        self._check_picture(data)
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        decoded = page.decode(data, index, **(tables if page.compression in _JPEG else {}))[0]
        assert decoded is not None
        return np.asarray(decoded[0])

    def _check_picture(self, data: bytes) -> None:
        """Refuse a picture in a tile or strip that is larger than this: it would be decoded whole.

        Raises:
            DecodeError: it is.

        """
        if self.page.compression in _JPEG:
            width, height = jpeg_size(data)
        elif self.page.compression in _JPEG2000:
            width, height = jpeg2000_frame(data)[:2]
        else:
            return
        if width * height > 2 * self.block_pixels:
            rows, columns = self._size
            raise DecodeError(
                f"the image is damaged: a tile of {columns} x {rows} pixels holds a picture of "
                f"{width} x {height}"
            )

    def _raw_rows(self, plane: int, row: int, column: int) -> Array:
        """Rows of an uncompressed image, from the strips that they lie in."""
        page = self.page
        samples = 1 if self._planes > 1 else int(page.samplesperpixel)
        dtype = np.dtype(page.dtype).newbyteorder(self._tiff.byteorder)
        length = self.width * samples * dtype.itemsize
        per_strip = min(int(page.rowsperstrip), self.height)
        strips = -(-self.height // per_strip)
        top = row * self._size[0]
        bottom = min(top + self._size[0], self.height)
        parts = []
        while top < bottom:
            strip, inside = divmod(top, per_strip)
            count = min(per_strip - inside, bottom - top)
            offset = page.dataoffsets[plane * strips * int(page.imagedepth) + strip]
            part = self._read(offset + inside * length, count * length) if offset else None
            parts.append(bytes(count * length) if part is None else part)
            top += count
        pixels = np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), dtype)
        return pixels.reshape(-1, self.width, samples).astype(dtype.newbyteorder("="), copy=False)

    def _read(self, offset: int, length: int) -> bytes | None:
        if not length:
            return None
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(length)
        if len(data) < length:
            raise DecodeError("the image is damaged: its file ends early")
        return data

    def _as_layout(self, block: Array) -> Array:
        page = self.page
        if page.photometric == PHOTOMETRIC.PALETTE:
            return self._palette[block[:, :, 0]]
        if page.photometric == PHOTOMETRIC.SEPARATED:
            if block.shape[2] < 4 or page.dtype not in (np.uint8, np.uint16):
                raise DecodeError(f"its {block.shape[2]} inks of {page.bitspersample} bits are not CMYK")
            inks = block[:, :, :4] >> 8 if page.dtype == np.uint16 else block[:, :, :4]
            image = Image.fromarray(np.ascontiguousarray(inks.astype(np.uint8)), "CMYK")
            return np.asarray(image.convert("RGB"))
        return block

    @cached_property
    def _palette(self) -> Array:
        colours = np.asarray(self.page.colormap).T
        # of 16 bits by the specification, but some programs write 8
        return (colours >> 8 if colours.max(initial=0) > 255 else colours).astype(np.uint8)

    def reduced(self) -> dict[int, TiffImage]:
        """The image's reduced copies, by how many of its pixels one of theirs has on a side.

        Those of COG and GDAL's overviews, of OME-TIFF (in SubIFDs) and of whole-slide scanners.
        """
        pages = [page for page in self._tiff.pages if isinstance(page, TiffPage)]
        pages += [page for page in self.page.pages or () if isinstance(page, TiffPage)]
        found = {}
        for page in pages:
            factor = round(self.width / page.imagewidth)
            sides = page.imagewidth, page.imagelength
            fits = sides in (
                (-(-self.width // factor), -(-self.height // factor)),
                (self.width // factor, self.height // factor),
            )
            alike = (page.dtype, page.samplesperpixel) == (self.page.dtype, self.page.samplesperpixel)
            is_copy = _subfile_type(page) & _REDUCED and not _subfile_type(page) & _MASK
            if factor > 1 and fits and alike and (is_copy or (page.is_tiled and self.page.is_tiled)):
                found[factor] = TiffImage(self._file, page)
                found[factor]._lock = self._lock
        return found


def _subfile_type(page: Any) -> int:
    return int(page.tags.valueof(_NEW_SUBFILE_TYPE, 0) or 0)
