"""Encoded image -> upright RGB pixels: one function for training, validation and serving."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from tilewise.arrays import Array
from tilewise.data.decoding.codestreams import JPEG_END, SCAN, jpeg_segments
from tilewise.data.decoding.header import (
    FORMATS,
    TRANSPOSING_ORIENTATIONS,
    ImageHeader,
    ImageTooLargeError,
    as_decode_error,
    read_header,
)
from tilewise.data.decoding.scene import KEPT_BYTES, Scene
from tilewise.data.decoding.stored_samples import (
    ArraySamples,
    DecodeError,
    Layout,
    RowSamples,
    Samples,
    known_bits,
    to_rgb,
)
from tilewise.data.decoding.tiff import TiffImage
from tilewise.machine import max_pixels as pixels_that_fit
from tilewise.machine import require_memory
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import View

if TYPE_CHECKING:  # an endpoint may do without it
    from torch import Tensor

__all__ = [
    "DecodeError",
    "DecodedImage",
    "ImageHeader",
    "ImageTooLargeError",
    "decode_image",
    "decode_reduced",
    "read_header",
]

_FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
SCENE_PIXELS = 50_000_000
"""Larger TIFF files are read by windows, where their layout allows it."""

_LARGE = 16_000_000
_BYTES_A_PIXEL = 7  # of most formats: 3 of the result, and 4 beside it (benchmarks/decode_memory.py)


def decode_image(data: bytes, max_pixels: int | None = None, rendering: Rendering = AS_STORED) -> Tensor:
    """Decode an image of one of the :data:`FORMATS`.

    Rotated as its EXIF orientation says; grey, palette and CMYK are converted; transparent pixels are laid
    over white; more than 8 bits are reduced to 8 as docs/data_formats.md says.

    Args:
        data: the encoded image.
        max_pixels: it may have; None for as many as the memory there is allows.
        rendering: bands and range, where the job chose them.

    Returns:
        (3, H, W) uint8 RGB; its memory has the colours last, since a copy of a large image costs as much
        as the image.

    Raises:
        DecodeError: the bytes are no image, or a damaged one, or ``rendering`` asks for a band that it lacks.
        ImageTooLargeError: it has more than ``max_pixels``.
        MemoryError: it does not fit into the memory that is left.

    """
    import torch

    return torch.from_numpy(_decode(data, read_header(data, max_pixels), rendering))


def _decode(data: bytes, header: ImageHeader, rendering: Rendering) -> Array:
    """(3, H, W) uint8 RGB, writable, its memory with the colours last; no PyTorch is needed for it."""
    if header.width * header.height > _LARGE:
        needed = _BYTES_A_PIXEL * header.width * header.height
        require_memory(needed, f"the image of {header.width} x {header.height} pixels")
    with as_decode_error():
        pixels: Array = to_rgb(_open_samples(data, header), rendering)
    if header.orientation in TRANSPOSING_ORIENTATIONS:
        pixels = pixels.transpose(1, 0, 2)
    if header.orientation in _FLIPS:
        pixels = np.flip(pixels, _FLIPS[header.orientation])
    if pixels.shape[:2] != (header.height, header.width):
        raise DecodeError(
            f"the image is damaged: it claims {header.width} x {header.height} pixels and has other ones"
        )
    return np.moveaxis(np.ascontiguousarray(pixels), 2, 0)


def _open_samples(data: bytes, header: ImageHeader) -> Samples:
    """The samples of an image, decoded by whoever does it whole, right and in the least memory."""
    # Imported here: its third of a second is not for those that only read headers.
    import imagecodecs

    match header.format:
        case "JPEG" if header.mode in ("RGB", "L"):
            _require_end(data)
            return ArraySamples(imagecodecs.jpeg8_decode(data, outcolorspace="RGB"), Layout())
        case "TIFF":
            tiff = TiffImage(data)
            return _PillowSamples(data) if tiff.read_by_pillow else tiff
        case "WEBP" if header.pages == 1:
            # without hasalpha an alpha channel without transparency is left out
            return _array(imagecodecs.webp_decode(data, hasalpha=header.mode == "RGBA"), 8)
        case "PNG" if _png_depth(data) == 16:
            return _array(imagecodecs.png_decode(data), header.bits)
        case "JPEG2000" if header.bits > 8:
            return _array(imagecodecs.jpeg2k_decode(data), header.bits)
        case "PPM" if (samples := _deep_ppm(data)) is not None:
            return samples
    return _PillowSamples(data)


def _array(array: Array, bits: int) -> ArraySamples:
    """Samples of which two or four to a pixel mean an opacity."""
    bands = 1 if array.ndim == 2 else array.shape[2]
    has_alpha = bands in (2, 4)
    known = known_bits(bits) if array.dtype.kind == "u" else None
    return ArraySamples(
        array,
        Layout(
            bands=bands - has_alpha,
            dtype=array.dtype,
            known_range=known,
            alpha="straight" if has_alpha else "",
        ),
    )


def _require_end(data: bytes) -> None:
    """Refuse a JPEG that ends early, of which libjpeg makes grey pixels.

    Raises:
        DecodeError: no end marker follows the first scan.

    """
    scan = next((place for marker, place in jpeg_segments(data) if marker == SCAN), None)
    if scan is None or data.find(JPEG_END, scan) < 0:
        raise DecodeError("the image is damaged: its data ends early")


def _png_depth(data: bytes) -> int:
    return data[24]


def _deep_ppm(data: bytes) -> ArraySamples | None:
    """A PGM or PPM file of more than 8 bits, of which Pillow keeps 8; None for others."""
    if data[:2] not in (b"P2", b"P3", b"P5", b"P6"):
        return None
    numbers: list[int] = []
    place = 2
    while len(numbers) < 3:
        while data[place : place + 1].isspace() or data[place : place + 1] == b"#":
            place = data.index(b"\n", place) + 1 if data[place : place + 1] == b"#" else place + 1
        end = place
        while data[end : end + 1].isdigit():
            end += 1
        numbers.append(int(data[place:end]))
        place = end
    width, height, largest = numbers
    if largest < 256:
        return None
    bands = 1 if data[:2] in (b"P2", b"P5") else 3
    if data[:2] in (b"P5", b"P6"):
        values = np.frombuffer(data, ">u2", width * height * bands, place + 1)
    else:
        values = np.fromstring(data[place:].decode("ascii"), np.uint16, width * height * bands, sep=" ")
    values = values.reshape(height, width, bands)
    known = (0.0, float(largest)) if largest < 65535 else None
    return _BigEndian(values, Layout(bands, np.dtype(np.uint16), known))


class _BigEndian(ArraySamples):
    """16-bit samples in a file's byte order, which are turned a few rows at a time."""

    def rows(self, top: int, bottom: int) -> Array:
        return self.array[top:bottom].astype(np.uint16)


class _PillowSamples(RowSamples):
    """What Pillow decodes."""

    def __init__(self, data: bytes):
        self._image = Image.open(io.BytesIO(data), formats=FORMATS)
        self._image.load()
        mode = self._image.mode
        self._as = "" if mode.startswith(("I", "F")) else self._eight_bit(mode)
        dtypes = {"F": np.float32, "I": np.int32}
        dtype = np.dtype(np.uint8 if self._as else dtypes.get(mode, np.uint16))
        alpha: Literal["", "straight"] = "straight" if self._as == "RGBA" else ""
        layout = Layout(1 if self._as in ("", "L") else 3, dtype, (0.0, 255.0) if self._as else None, alpha)
        super().__init__(self._image.width, self._image.height, layout)

    def _eight_bit(self, mode: str) -> str:
        if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in self._image.info:
            return "RGBA"
        return "L" if mode in ("1", "L") else "RGB"

    def rows(self, top: int, bottom: int) -> Array:
        """See :class:`RowSamples`."""
        band = self._image.crop((0, top, self.width, bottom))
        pixels = np.asarray(band.convert(self._as) if self._as else band, self.layout.dtype)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, perhaps reduced on the way.

    Attributes:
        pixels: (3, ⌈height / factor⌉, ⌈width / factor⌉) uint8 RGB. Each covers factor x factor pixels of the
            whole image; those of the last column and row may reach beyond it.
        width, height: pixels of the whole image, upright.
        factor: 1, 2, 4 or 8.
        remarks: what of the image was left aside, in words for the log.
        scene: where the image is larger than memory; ``pixels`` are then empty.

    """

    pixels: Array
    width: int
    height: int
    factor: int = 1
    remarks: Sequence[str] = ()
    scene: Scene | None = None

    @staticmethod
    def whole(pixels: Array) -> DecodedImage:
        """Of an image's pixels, (3, H, W)."""
        return DecodedImage(pixels, pixels.shape[2], pixels.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it keeps, at most."""
        return KEPT_BYTES if self.scene else self.pixels.nbytes

    def to(self, upload: Callable[[Array], Any]) -> DecodedImage:
        """The same image where a backend wants its pixels; those of a scene go there view by view."""
        if self.scene:
            self.scene.upload = upload
            return self
        return DecodedImage(upload(self.pixels), self.width, self.height, self.factor, self.remarks)

    def seen_by(self, view: View) -> tuple[Any, int]:
        """What a view can be cut from, and by how much that is reduced."""
        return self.scene.seen_by(view) if self.scene else (self.pixels, self.factor)

    def show(self, view: View) -> Array:
        """(height, width, 3) uint8: what a view shows of the image, for a picture."""
        pixels, factor = self.seen_by(view)
        return np.moveaxis(view.snapped(factor).pixels_from_image(pixels, factor), 0, 2)


def decode_reduced(
    source: bytes | Path,
    reduction: Callable[[int, int], int],
    max_pixels: int | None = None,
    *,
    rendering: Rendering = AS_STORED,
) -> DecodedImage:
    """Decode an image at a fraction of its size where that is cheap: for a small view of a large JPEG.

    A JPEG's blocks of 8 x 8 pixels become 4 x 4, 2 x 2 or 1 x 1 (libjpeg's scaled inverse DCT), which
    averages over the pixels in a fraction of the time and memory. Other formats, and JPEGs that EXIF
    rotates, are decoded whole.

    Args:
        source: the encoded image, or its file: a TIFF file of more than :data:`SCENE_PIXELS` in tiles or
            strips is then read by windows, whatever its size.
        reduction: by how much an image of a width and height may be reduced: 1, 2, 4 or 8.
        max_pixels: as for :func:`decode_image`, of the whole image.
        rendering: as for :func:`decode_image`.

    Raises:
        DecodeError, ImageTooLargeError, MemoryError: as for :func:`decode_image`.

    """
    if isinstance(source, Path):
        scene = _open_scene(source, max_pixels, rendering)
        if scene:
            return scene
    data = source.read_bytes() if isinstance(source, Path) else source
    header = read_header(data, max_pixels)
    factor = reduction(header.width, header.height)
    reducible = header.format == "JPEG" and header.mode in ("RGB", "L") and header.orientation == 1
    if factor > 1 and reducible and rendering.bands is None:
        size = (-(-header.width // factor), -(-header.height // factor))
        with as_decode_error(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft(None, (max(1, header.width // factor), max(1, header.height // factor)))
            if image.size == size:
                pixels = np.moveaxis(np.array(image.convert("RGB")), 2, 0)
                return DecodedImage(pixels, header.width, header.height, factor)
    pixels = _decode(data, header, rendering)
    return DecodedImage(pixels, header.width, header.height, remarks=header.remarks(rendering))


def _open_scene(path: Path, max_pixels: int | None, rendering: Rendering) -> DecodedImage | None:
    """A file as a scene; None where it is to be decoded as a whole."""
    with path.open("rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            return None
        file.seek(0)
        header = read_header(file, max_pixels, by_parts=True)
    most = pixels_that_fit() if max_pixels is None else max_pixels
    if not header.by_parts or header.width * header.height <= min(SCENE_PIXELS, most):
        return None
    with as_decode_error():
        scene = Scene(path, rendering)
    none = np.empty((3, 0, 0), np.uint8)
    return DecodedImage(none, header.width, header.height, remarks=header.remarks(rendering), scene=scene)
