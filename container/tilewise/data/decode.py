"""Encoded image -> upright RGB pixels: one function for training, validation and serving."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from tilewise.errors import UserError

MAX_PIXELS = 500_000_000
"""Images with more pixels are refused before they are decoded (1.5 GB as RGB)."""

Image.MAX_IMAGE_PIXELS = None  # the cap above holds instead: Pillow's own only warns

_EXIF_ORIENTATION = 0x0112
_TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)


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


def read_header(source: io.BufferedIOBase | bytes, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read an image's size without decoding it.

    Raises:
        DecodeError: it is no image.
        ImageTooLargeError: it has more than ``max_pixels``.

    """
    with _open(source) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageTooLargeError(f"the image has {width} x {height} pixels; at most {max_pixels:,} are accepted")
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
        if orientation in _TRANSPOSING_ORIENTATIONS:
            width, height = height, width
        return ImageHeader(image.format or "", image.mode, orientation, width, height)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image of any format that Pillow knows.

    Rotated as its EXIF orientation says; grey, palette and CMYK are converted; 16 bits are reduced to 8 over the
    range of the values that occur; transparent pixels are laid over white.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        DecodeError: the bytes are no image, or a damaged one.
        ImageTooLargeError: it has more than ``max_pixels``.

    """
    header = read_header(data, max_pixels)
    try:
        if header.format == "JPEG" and header.mode in ("RGB", "L"):
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
        with _open(data) as image:
            pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except (OSError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DecodeError(f"the image is damaged: {reason}") from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def _open(source: io.BufferedIOBase | bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e.g. corrupt EXIF: what matters of it raises where it is read
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError:
        raise DecodeError("these bytes are not an image in a known format") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DecodeError(f"the image's header is damaged: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        scaled = (values - low) * (255.0 / (high - low)) if high > low else np.zeros_like(values)
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
