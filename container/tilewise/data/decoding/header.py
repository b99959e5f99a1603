"""What an image says of itself before it is decoded, and the formats that there are."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from PIL import Image, UnidentifiedImageError

from tilewise.data.decoding.codestreams import jpeg2000_frame
from tilewise.data.decoding.signatures import HEIC_HINT, starts_like_heic
from tilewise.data.decoding.stored_samples import DecodeError
from tilewise.data.decoding.tiff import TiffImage
from tilewise.errors import UserError
from tilewise.machine import max_pixels as pixels_that_fit
from tilewise.views.rendering import AS_STORED, Rendering

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
"""What is decoded: Pillow knows more formats, and some of them start other programs (EPS: Ghostscript)."""

Image.MAX_IMAGE_PIXELS = None  # the cap of this module holds instead: Pillow's own only warns
# Pillow warns of damaged metadata; what matters of it raises where it is read.
warnings.filterwarnings("ignore", module=r"PIL\.")

TRANSPOSING_ORIENTATIONS = (5, 6, 7, 8)

_EXIF_ORIENTATION = 0x0112
_PNG_ORIENTATION_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_OTHERS = {
    b"\xff\x0a": ("a JPEG XL image", "djxl image.jxl image.png"),
    b"\0\0\0\x0cJXL ": ("a JPEG XL image", "djxl image.jxl image.png"),
    b"%PDF": ("a PDF document", "pdftoppm -png document.pdf page"),
    b"8BPS": ("a Photoshop document", "magick 'image.psd[0]' image.png"),
}
"""First bytes of files that are no image here: what they are, and a command that makes one of them."""


class ImageTooLargeError(DecodeError):
    """The image has more pixels than the cap."""


@dataclass(frozen=True)
class ImageHeader:
    """An image's format and size, and how its pixels are stored.

    Attributes:
        format: one of :data:`FORMATS`.
        mode: Pillow's, or for TIFF its samples' type.
        orientation: as EXIF numbers it.
        width, height: pixels of the upright image.
        bands: samples of a pixel, alpha not counted.
        pages: images in the file; 0 where nobody has counted. The first one is read.
        bits: significant bits of a sample; 0 where the format does not say.
        by_parts: whether parts of it can be decoded alone: a TIFF image in tiles or strips.

    """

    format: str
    mode: str
    orientation: int
    width: int
    height: int
    bands: int = 3
    pages: int = 1
    bits: int = 8
    by_parts: bool = False

    def remarks(self, rendering: Rendering = AS_STORED) -> list[str]:
        """What of the image is left aside, in words for the log."""
        remarks = []
        if rendering.bands is None and self.bands not in (1, 3):
            taken = "the first is read as grey" if self.bands == 2 else "the first three are read as RGB"
            remarks.append(f"{self.bands} bands of {self.mode}: {taken}; bands=… chooses others")
        if self.pages > 1:
            remarks.append(f"{self.pages} pages: the first one is read")
        return remarks


def read_header(
    source: IO[bytes] | bytes, max_pixels: int | None = None, *, by_parts: bool = False
) -> ImageHeader:
    """Read an image's size without decoding it.

    Args:
        source: the encoded image.
        max_pixels: it may have; None for as many as the memory there is allows.
        by_parts: whether the image will be decoded by parts where it can be: then the cap is for each part.

    Raises:
        DecodeError: it is no image.
        ImageTooLargeError: it has more than ``max_pixels``.

    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with as_decode_error():
        head = _peek(file, 32)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp_header(file, max_pixels)
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff_header(file, max_pixels, by_parts=by_parts)
        _refuse_by_name(head)
        return _pillow_header(file, max_pixels)


def _pillow_header(file: IO[bytes], max_pixels: int | None) -> ImageHeader:
    with Image.open(file, formats=FORMATS) as image:
        width, height, bits = *image.size, 8
        bands = len([band for band in image.getbands() if band not in "Aa"])
        if image.format == "PNG":
            bits = _png_bits(file)
        elif image.format == "JPEG2000":
            file.seek(0)
            width, height, in_one_tile, samples, bits = jpeg2000_frame(file.read(1 << 16))
            bands = samples - (samples in (2, 4))
            if in_one_tile:  # OpenJPEG takes twice the memory of all else (benchmarks/decode_memory.py)
                most = pixels_that_fit() if max_pixels is None else max_pixels
                check_size(width, height, most // 2, what="as JPEG 2000 in one tile the image")
        check_size(width, height, max_pixels)
        orientation = _orientation(image, file)
        pages = 2 if getattr(image, "is_animated", False) else 1
        size = (height, width) if orientation in TRANSPOSING_ORIENTATIONS else (width, height)
        name = "JPEG" if image.format == "MPO" else image.format or ""
        bands = 3 if image.mode in ("P", "PA", "CMYK") else bands
        return ImageHeader(name, image.mode, orientation, *size, bands, 1 if name == "JPEG" else pages, bits)


def _png_bits(file: IO[bytes]) -> int:
    """Significant bits of a PNG's samples: all, or those of its sBIT chunk (PNG, section 11.3.2.5)."""
    bits, place = 8, 8
    while True:
        file.seek(place)
        start = file.read(21)
        if len(start) < 12 or start[4:8] == b"IDAT":
            return bits
        length, kind, content = int.from_bytes(start[:4]), start[4:8], start[8:]
        if kind == b"IHDR":
            bits = content[8]
        elif kind == b"sBIT" and length and any(content[: min(length, 3)]):
            return min(bits, max(content[: min(length, 3)]))
        place += 12 + length


def _webp_header(file: IO[bytes], max_pixels: int | None) -> ImageHeader:
    """Of a WebP file's chunks (RFC 9649); Pillow would make room for all pixels first."""
    file.seek(0)
    content = file.read()
    width = height = orientation = 0
    place, mode, pages = 12, "RGB", 1
    while place + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, place)
        body = content[place + 8 : place + 8 + min(length, 1 << 16)]
        if kind == b"VP8X" and len(body) >= 10:
            mode = "RGBA" if body[0] & 0x10 else "RGB"
            pages = 2 if body[0] & 0x02 else 1
            sides = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
            width, height = max(width, sides[0]), max(height, sides[1])
        elif kind == b"VP8 " and len(body) >= 10:
            width, height = (
                max(was, int.from_bytes(body[at : at + 2], "little") & 0x3FFF)
                for was, at in ((width, 6), (height, 8))
            )
        elif kind == b"VP8L" and len(body) >= 5:
            packed = int.from_bytes(body[1:5], "little")
            width, height = max(width, (packed & 0x3FFF) + 1), max(height, (packed >> 14 & 0x3FFF) + 1)
            mode = "RGBA" if packed >> 28 & 1 else mode
        elif kind == b"EXIF":
            exif = Image.Exif()
            exif.load(body if body.startswith(b"Exif\0\0") else b"Exif\0\0" + body)
            orientation = exif.get(_EXIF_ORIENTATION, 1)
        place += 8 + length + length % 2
    check_size(width, height, max_pixels)
    orientation = orientation if orientation in range(1, 9) else 1
    size = (height, width) if orientation in TRANSPOSING_ORIENTATIONS else (width, height)
    return ImageHeader("WEBP", mode, orientation, *size, pages=pages)


def _tiff_header(file: IO[bytes], max_pixels: int | None, *, by_parts: bool) -> ImageHeader:
    file.seek(0)
    image = TiffImage(file)
    width, height = image.width, image.height
    if by_parts and width * height and image.can_be_read_by_parts:
        check_size(
            image.block_pixels, 1, max_pixels, what=f"a tile or strip of the {width} x {height} pixels"
        )
    else:
        check_size(width, height, max_pixels)
    size = (height, width) if image.orientation in TRANSPOSING_ORIENTATIONS else (width, height)
    return ImageHeader(
        "TIFF",
        str(image.page.dtype),
        image.orientation,
        *size,
        bands=3 if image.layout.plain else image.bands,
        pages=image.pages,
        bits=int(image.page.bitspersample),
        by_parts=image.can_be_read_by_parts,
    )


def check_size(width: int, height: int, max_pixels: int | None, *, what: str = "the image") -> None:
    """Refuse what has too many pixels.

    Raises:
        DecodeError: it has none.
        ImageTooLargeError: it has more than ``max_pixels``, or where that is None than the memory allows.

    """
    most = pixels_that_fit() if max_pixels is None else max_pixels
    if width <= 0 or height <= 0:
        raise DecodeError("the image has no pixels")
    if width * height > most:
        raise ImageTooLargeError(f"{what} has {width} x {height} pixels; at most {most:,} are accepted")


def _orientation(image: Image.Image, file: IO[bytes]) -> int:
    """How the stored pixels lie, as EXIF (2.32, section 4.6.4) numbers it: 1 to 8."""
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


def _peek(file: IO[bytes], count: int) -> bytes:
    position = file.tell()
    head = file.read(count)
    file.seek(position)
    return head


def _refuse_by_name(head: bytes) -> None:
    """Name what people bring that is no image here, with the way to convert it.

    Raises:
        DecodeError: it is such a file.

    """
    what = next((facts for start, facts in _OTHERS.items() if head.startswith(start)), None)
    if starts_like_heic(head):
        raise DecodeError(HEIC_HINT)
    if what:
        raise DecodeError(f"this is {what[0]}: convert it, with `{what[1]}` for instance")
    if not head:
        raise DecodeError("it is empty: write or fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise DecodeError("this is a pointer of Git LFS in place of the image: fetch that by `git lfs pull`")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise DecodeError("this is a page of HTML, as a failed download leaves it: fetch the image again")


@contextmanager
def as_decode_error() -> Iterator[None]:
    """Whatever a decoder raises is a :class:`DecodeError`, but for a lack of memory."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DecodeError("these bytes are not an image in a known format") from None
    except Exception as error:  # a damaged file: OSError, struct.error, zlib.error, EOFError, TypeError, …
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "memory" in reason.lower():  # as decoders' own exceptions say it
            raise MemoryError(reason) from None
        raise DecodeError(f"the image is damaged: {reason}") from None
