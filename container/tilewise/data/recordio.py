"""RecordIO files of images, as MXNet's im2rec writes them: where each record lies, its labels, its image.

Specification: dmlc-core, ``include/dmlc/recordio.h`` (records and their parts); MXNet,
``src/io/image_recordio.h`` and ``python/mxnet/recordio.py`` (header and labels of an image record).
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tilewise.data.decode import DecodeError
from tilewise.errors import UserError

_MAGIC = struct.pack("<I", 0xCED7230A)
_PART_HEADER = struct.Struct("<4sI")  # magic, 3 bits of cflag above 29 bits of length
_IMAGE_HEADER = struct.Struct("<IfQQ")  # flag, label, id, id2
_LENGTH_BITS = 29
_ALIGNMENT = 4
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_CHUNK = 1 << 20

_Range = tuple[int, int]
"""Where some bytes of a file begin, and how many they are."""


@dataclass(frozen=True)
class ImageRecord:
    """One record of a file, without its image.

    Attributes:
        number: counted from 0.
        offset: where it begins in the file.
        id: as the header has it.
        labels: float32; the header's single label where no others were packed.

    """

    number: int
    offset: int
    id: int
    labels: npt.NDArray[np.float32]


class _DamageError(Exception):
    def __init__(self, offset: int, reason: str):
        super().__init__(f"at byte {offset}: {reason}")


class _Ranges(io.RawIOBase):
    """Ranges of a file, read as if they were one file; ``closes`` says whether it is closed with them."""

    def __init__(self, file: IO[bytes], ranges: list[_Range], closes: bool = False):
        self._file, self._ranges, self._closes = file, ranges, closes
        self._ends = list(accumulate(length for _, length in ranges))
        self._position = 0

    def __len__(self) -> int:
        return self._ends[-1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, len(self))[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        index = bisect_right(self._ends, self._position)
        if index == len(self._ends):
            return 0
        left = self._ends[index] - self._position
        self._file.seek(sum(self._ranges[index]) - left)
        content = self._file.read(min(len(buffer), left))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readall(self) -> bytes:
        return b"".join(iter(partial(self.read, _CHUNK), b""))

    def take(self, count: int) -> bytes:
        """``count`` bytes, from several ranges if need be; fewer only at the end."""
        content = b""
        while len(content) < count and (more := self.read(count - len(content))):
            content += more
        return content

    def close(self) -> None:
        if self._closes:
            self._file.close()
        super().close()


def scan(path: Path) -> Iterator[ImageRecord]:
    """Go through a file's records from the first to the last; images are passed over, not read.

    Raises:
        UserError: the file is damaged; the message names the file, the record and the byte.

    """
    number = offset = 0
    with path.open("rb", buffering=_CHUNK) as file:
        size = path.stat().st_size
        while offset < size:
            try:
                ranges, end = _find_ranges(file, offset, size)
                identity, labels = _read_header(_Ranges(file, ranges), offset)
            except _DamageError as damage:
                raise UserError(f"{path.name} is damaged in record {number} {damage}") from None
            yield ImageRecord(number, offset, identity, labels)
            number, offset = number + 1, end


def open_image(path: Path, offset: int) -> IO[bytes]:
    """The encoded image of the record that begins at ``offset``, as a file of its own.

    Raises:
        DecodeError: there is no whole record at ``offset``.

    """
    file = path.open("rb", buffering=0)
    try:
        ranges, _ = _find_ranges(file, offset, path.stat().st_size)
        content = _Ranges(file, ranges)
        _read_header(content, offset)
    except _DamageError as damage:
        file.close()
        raise DecodeError(f"{path.name} is damaged {damage}") from None
    image = _without_first(ranges, content.tell())
    return io.BufferedReader(_Ranges(file, image, closes=True))


def _find_ranges(file: IO[bytes], offset: int, size: int) -> tuple[list[_Range], int]:
    """Where a record's content lies, and where the record ends.

    A writer splits its content wherever it holds the magic, and leaves that out; but the header of the part
    that follows begins with the same four bytes.
    """
    ranges: list[_Range] = []
    allowed, cflag, end = (_WHOLE, _FIRST), _FIRST, offset
    while cflag in (_FIRST, _MIDDLE):
        start = end
        cflag, length = _read_part_header(file, start)
        if cflag not in allowed:
            raise _DamageError(start, f"here is a part {cflag}, where {allowed[0]} or {allowed[1]} belongs")
        begin = start + _PART_HEADER.size
        end = begin + -(-length // _ALIGNMENT) * _ALIGNMENT
        if end > size:
            raise _DamageError(start, f"the record goes on to byte {end}, but the file ends at {size}")
        ranges += [(start, len(_MAGIC))] if ranges else []
        ranges.append((begin, length))
        allowed = (_MIDDLE, _LAST)
    return ranges, end


def _read_part_header(file: IO[bytes], offset: int) -> tuple[int, int]:
    """Flag and length of a part."""
    file.seek(offset)
    header = file.read(_PART_HEADER.size)
    if len(header) < _PART_HEADER.size:
        raise _DamageError(offset, "the file ends in the middle of a record")
    magic, word = _PART_HEADER.unpack(header)
    if magic != _MAGIC:
        raise _DamageError(offset, f"here is {magic.hex()}, but a record begins with {_MAGIC.hex()}")
    return word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)


def _read_header(content: _Ranges, offset: int) -> tuple[int, npt.NDArray[np.float32]]:
    """Id and labels of an image record; leaves ``content`` where its image begins."""
    if len(content) < _IMAGE_HEADER.size:
        raise _DamageError(offset, f"{len(content)} bytes are too few for the header of an image record")
    flag, label, identity, _ = _IMAGE_HEADER.unpack(content.take(_IMAGE_HEADER.size))
    if content.tell() + 4 * flag > len(content):
        raise _DamageError(offset, f"{len(content)} bytes are too few for the record's {flag} labels")
    if flag:
        return identity, np.frombuffer(content.take(4 * flag), "<f4").astype(np.float32)
    return identity, np.asarray([label], np.float32)


def _without_first(ranges: list[_Range], count: int) -> list[_Range]:
    rest = []
    for start, length in ranges:
        cut = min(count, length)
        rest.append((start + cut, length - cut))
        count -= cut
    return rest
