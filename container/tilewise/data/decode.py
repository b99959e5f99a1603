"""Encoded image -> upright RGB pixels: one function for training, validation and serving."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from tilewise.arrays import Array
from tilewise.data.image_starts import HEIC_HINT, starts_like_heic
from tilewise.errors import UserError

if TYPE_CHECKING:  # an endpoint may do without it
    from torch import Tensor

MAX_PIXELS = 500_000_000
"""Images with more pixels are refused before they are decoded (1.5 GB as RGB)."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
"""What is decoded: Pillow knows more formats, and some of them start other programs (EPS: Ghostscript)."""

Image.MAX_IMAGE_PIXELS = None  # the cap above holds instead: Pillow's own only warns
# Pillow warns of damaged metadata; what matters of it raises where it is read.
warnings.filterwarnings("ignore", module=r"PIL\.")

_EXIF_ORIENTATION = 0x0112
_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)
_FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
_PNG_ORIENTATION_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


class DecodeError(UserError):
    """The bytes are not an image that can be decoded."""


class ImageTooLargeError(DecodeError):
    """The image has more pixels than the cap."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image says of itself before it is decoded: its format and its upright size in pixels."""

    format: str
    mode: str
    orientation: int
    width: int
    height: int


def read_header(source: IO[bytes] | bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read an image's size without decoding it.

    Raises:
        DecodeError: it is no image.
        ImageTooLargeError: it has more than ``max_pixels``.

    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    start = file.read(32)
    file.seek(0)
    if starts_like_heic(start):
        raise DecodeError(HEIC_HINT)
    with _as_decode_error(), Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageTooLargeError(
                f"the image has {width} x {height} pixels; at most {max_pixels:,} are accepted"
            )
        if not width * height:
            raise DecodeError("the image has no pixels")
        orientation = _orientation(image, file)
        if orientation in _TRANSPOSING_ORIENTATIONS:
            width, height = height, width
        return ImageHeader(image.format or "", image.mode, orientation, width, height)


def _orientation(image: Image.Image, file: IO[bytes]) -> int:
    """How the stored pixels lie, as EXIF (2.32, section 4.6.4) numbers it: 1 to 8."""
    if image.format == "TIFF":
        return 1  # Pillow turns these itself, size and pixels
    if image.format == "PNG":
        # Metadata may follow the pixels, and Pillow decodes them all to look: only where there is some.
        position = file.tell()
        file.seek(0)
        content = file.read()
        file.seek(position)
        if not any(mark in content for mark in _PNG_ORIENTATION_MARKS):
            return 1
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    return int(orientation) if orientation in range(1, 9) else 1


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image of one of the :data:`FORMATS`.

    Rotated as its EXIF orientation says; grey, palette and CMYK are converted; more than 8 bits of grey are
    reduced to 8 over the range of the values that occur; transparent pixels are laid over white.

    Returns:
        (3, H, W) uint8 RGB; its memory may have the colours last, since a copy of a large image costs as much
        as the image.

    Raises:
        DecodeError: the bytes are no image, or a damaged one.
        ImageTooLargeError: it has more than ``max_pixels``.

    """
    import torch

    return torch.from_numpy(_decode(data, read_header(data, max_pixels)))


def _decode(data: bytes, header: ImageHeader) -> Array:
    """(3, H, W) uint8 RGB, writable, its memory with the colours last; no PyTorch is needed for it."""
    with _as_decode_error(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        pixels = np.array(_to_rgb(image))
    if header.orientation in _TRANSPOSING_ORIENTATIONS:
        pixels = pixels.transpose(1, 0, 2)
    if header.orientation in _FLIPS:
        pixels = np.flip(pixels, _FLIPS[header.orientation])
    return np.moveaxis(np.ascontiguousarray(pixels), 2, 0)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, perhaps reduced on the way.

    Attributes:
        pixels: (3, ⌈height / factor⌉, ⌈width / factor⌉) uint8 RGB. Each covers factor x factor pixels of the
            whole image; those of the last column and row may reach beyond it.
        width, height: pixels of the whole image, upright.
        factor: 1, 2, 4 or 8.

    """

    pixels: Array
    width: int
    height: int
    factor: int = 1

    @staticmethod
    def whole(pixels: Array) -> DecodedImage:
        """Of an image's pixels, (3, H, W)."""
        return DecodedImage(pixels, pixels.shape[2], pixels.shape[1])


def decode_reduced(
    data: bytes, reduction: Callable[[int, int], int], max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """Decode an image at a fraction of its size where that is cheap: for a small view of a large JPEG.

    A JPEG's blocks of 8 x 8 pixels become 4 x 4, 2 x 2 or 1 x 1 (libjpeg's scaled inverse DCT), which
    averages over the pixels in a fraction of the time and memory. Other formats, and JPEGs that EXIF
    rotates, are decoded whole.

    Args:
        data: the encoded image.
        reduction: by how much an image of a width and height may be reduced: 1, 2, 4 or 8.
        max_pixels: as for :func:`decode_image`, of the whole image.

    Raises:
        DecodeError, ImageTooLargeError: as for :func:`decode_image`.

    """
    header = read_header(data, max_pixels)
    factor = reduction(header.width, header.height)
    if factor > 1 and header.format == "JPEG" and header.mode in ("RGB", "L") and header.orientation == 1:
        size = (-(-header.width // factor), -(-header.height // factor))
        with _as_decode_error(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft(None, (max(1, header.width // factor), max(1, header.height // factor)))
            if image.size == size:
                pixels = np.moveaxis(np.array(image.convert("RGB")), 2, 0)
                return DecodedImage(pixels, header.width, header.height, factor)
    return DecodedImage.whole(_decode(data, header))


@contextmanager
def _as_decode_error() -> Iterator[None]:
    try:
        yield
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError("these bytes are not an image in a known format") from None
    except Exception as error:  # a damaged file: OSError, struct.error, zlib.error, EOFError, TypeError, …
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DecodeError(f"the image is damaged: {reason}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
