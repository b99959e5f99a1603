"""How image files begin, whatever they are called."""

from __future__ import annotations

import re

_STARTS = re.compile(
    rb"\xff\xd8\xff"  # JPEG
    rb"|\x89PNG\r\n\x1a\n"
    rb"|GIF8[79]a"
    rb"|BM.{4}\0{4}"
    rb"|II[*+]\0|MM\0[*+]"  # TIFF and BigTIFF
    rb"|RIFF.{4}WEBP"
    rb"|\0\0\0\x0cjP|\xff\x4f\xff\x51"  # JPEG 2000, in a file or bare
    rb"|.{4}ftyp(?:avi[fs]|mif1|msf1|hei[cmsx]|hev[cmx])"
    rb"|P[1-6]\s+[\d#]",  # PBM, PGM and PPM
    re.DOTALL,
)
_HEIC = re.compile(rb".{4}ftyp(?:hei[cmsx]|hev[cmx]|(?:mif1|msf1)(?!.{4,}avi[fs]))", re.DOTALL)

HEIC_HINT = (
    "it is a HEIC image, which is not supported: convert it to JPEG, for example by "
    "`heif-convert a.heic a.jpg` or, for many, `magick mogrify -format jpg *.heic`"
)
"""What to do with a photo of a telephone."""


def starts_like_image(start: bytes) -> bool:
    """Whether a file that begins so, 32 bytes of it, is an image: most are of formats that are decoded."""
    return _STARTS.match(start) is not None


def starts_like_heic(start: bytes) -> bool:
    """Whether it is HEIC, an image coded as a frame of H.265; AVIF, which has the same container, is not."""
    return _HEIC.match(start) is not None
