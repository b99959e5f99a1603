"""What encoded pictures say of themselves where they begin."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tilewise.data.decoding.stored_samples import DecodeError

SCAN = 0xDA
JPEG_END = b"\xff\xd9"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = (0x00, 0x01, *range(0xD0, 0xD9))  # markers without content


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG (ITU-T T.81, annex B) and where they are, up to that of the first scan."""
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            place = data.find(b"\xff", place)  # libjpeg passes over what stands between segments
            if place < 0:
                return
            continue
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in _ALONE:
            place += 2
        else:
            yield marker, place
            if marker == SCAN:
                return
            place += 2 + int.from_bytes(data[place + 2 : place + 4])


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG; zeros where it does not say."""
    place = next((place for marker, place in jpeg_segments(data) if marker in _FRAMES), None)
    if place is None or len(data) < place + 9:
        return 0, 0
    height, width = struct.unpack_from(">HH", data, place + 5)
    return width, height


class Jpeg2000Frame(NamedTuple):
    """What a JPEG 2000 codestream says of its image."""

    width: int
    height: int
    in_one_tile: bool
    samples: int
    bits: int


def jpeg2000_frame(data: bytes) -> Jpeg2000Frame:
    """The frame of a codestream (ISO 15444-1, A.5.1); the file around it may lie.

    Raises:
        DecodeError: there is no codestream.

    """
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(data) < start + 43:
        raise DecodeError("the image is damaged: its codestream has no size")
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", data, start + 8)
    width, height = right - left, bottom - top
    (samples,) = struct.unpack_from(">H", data, start + 40)
    in_one_tile = tile_width >= width and tile_height >= height
    return Jpeg2000Frame(width, height, in_one_tile, samples, (data[start + 42] & 127) + 1)
