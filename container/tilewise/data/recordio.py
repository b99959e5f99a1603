"""RecordIO files of images, as MXNet's im2rec writes them: where each record lies, its labels, its image.

Specification: dmlc-core, ``include/dmlc/recordio.h`` (records and their parts); MXNet,
``src/io/image_recordio.h`` and ``python/mxnet/recordio.py`` (header and labels of an image record).
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from tilewise.arrays import Float32
from tilewise.data.decoding.decode import DecodeError
from tilewise.errors import UserError

MAGIC = struct.pack("<I", 0xCED7230A)
PART_HEADER = struct.Struct("<4sI")  # magic, 3 bits of cflag above 29 bits of length
IMAGE_HEADER = struct.Struct("<IfQQ")  # flag, label, id, id2
LENGTH_BITS = 29
ALIGNMENT = 4
WHOLE, FIRST, MIDDLE, LAST = range(4)
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
    labels: Float32


@dataclass(frozen=True)
class StreamRecord:
    """One whole record of a stream.

    Attributes:
        number: counted from 0.
        offset: where it begins in the stream.
        content: its bytes, as they were before a writer split them.

    """

    number: int
    offset: int
    content: bytes


class _DamageError(Exception):
    def __init__(self, offset: int, reason: str):
        super().__init__(f"at byte {offset}: {reason}")


class _Ranges(io.RawIOBase):
    """Ranges of a file, read as if they were one file; ``closes`` says whether it is closed with them."""

    def __init__(self, file: IO[bytes], ranges: list[_Range], *, closes: bool = False):
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
        bytes_left = self._ends[index] - self._position
        self._file.seek(sum(self._ranges[index]) - bytes_left)
        content = self._file.read(min(len(buffer), bytes_left))
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
                content = _Ranges(file, ranges)
                identity, labels = _read_header(content.take, len(content), offset)
            except _DamageError as damage:
                raise _as_user_error(path.name, number, damage) from None
            yield ImageRecord(number, offset, identity, labels)
            number, offset = number + 1, end


def read_stream(stream: IO[bytes], name: str) -> Iterator[StreamRecord]:
    """The records of a stream that cannot seek, from the first to the last.

    Args:
        stream: its ``read`` returns as many bytes as are asked for, fewer only at the end.
        name: names it in messages.

    Raises:
        UserError: the stream is damaged or ends in the middle of a record; the message names stream, record
            and byte.

    """
    number = offset = 0
    while header := stream.read(PART_HEADER.size):
        try:
            content, end = _read_content(stream, header, offset)
        except _DamageError as damage:
            raise _as_user_error(name, number, damage) from None
        yield StreamRecord(number, offset, content)
        number, offset = number + 1, end


def split_image_record(record: StreamRecord, name: str) -> tuple[ImageRecord, bytes]:
    """An image record's header and labels, and its encoded image.

    Raises:
        UserError: it is no image record; the message names stream, record and byte.

    """
    content = io.BytesIO(record.content)
    try:
        identity, labels = _read_header(content.read, len(record.content), record.offset)
    except _DamageError as damage:
        raise _as_user_error(name, record.number, damage) from None
    return ImageRecord(record.number, record.offset, identity, labels), content.read()


def _as_user_error(name: str, number: int, damage: _DamageError) -> UserError:
    return UserError(f"{name} is damaged in record {number} {damage}")


def open_image(path: Path, offset: int) -> IO[bytes]:
    """The encoded image of the record that begins at ``offset``, as a file of its own.

    Raises:
        DecodeError: there is no whole record at ``offset``.

    """
    file = path.open("rb", buffering=0)
    try:
        ranges, _ = _find_ranges(file, offset, path.stat().st_size)
        content = _Ranges(file, ranges)
        _read_header(content.take, len(content), offset)
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
    cflag, end = FIRST, offset
    while cflag in (FIRST, MIDDLE):
        start = end
        file.seek(start)
        cflag, length = _parse_part_header(file.read(PART_HEADER.size), start, first=not ranges)
        begin = start + PART_HEADER.size
        end = begin + _padded(length)
        if end > size:
            raise _DamageError(start, f"the record goes on to byte {end}, but the file ends at {size}")
        ranges += [(start, len(MAGIC))] if ranges else []
        ranges.append((begin, length))
    return ranges, end


def _read_content(stream: IO[bytes], header: bytes, offset: int) -> tuple[bytes, int]:
    """A record's content, its parts joined, and where it ends; ``header`` is that of its first part."""
    parts: list[bytes] = []
    cflag, end = FIRST, offset
    while cflag in (FIRST, MIDDLE):
        start = end
        header = header if not parts else stream.read(PART_HEADER.size)
        cflag, length = _parse_part_header(header, start, first=not parts)
        begin = start + PART_HEADER.size
        end = begin + _padded(length)
        parts.append(stream.read(length))
        ended = begin + len(parts[-1]) + len(stream.read(_padded(length) - length))
        if ended < end:
            raise _DamageError(start, f"the record goes on to byte {end}, but the stream ends at {ended}")
    return MAGIC.join(parts), end


def _parse_part_header(header: bytes, offset: int, *, first: bool) -> tuple[int, int]:
    """Flag and length of a part; ``first`` says whether a record begins with it."""
    if len(header) < PART_HEADER.size:
        raise _DamageError(offset, "the data ends in the middle of a record")
    magic, word = PART_HEADER.unpack(header)
    if magic != MAGIC:
        raise _DamageError(offset, f"here is {magic.hex()}, but a record begins with {MAGIC.hex()}")
    cflag, allowed = word >> LENGTH_BITS, (WHOLE, FIRST) if first else (MIDDLE, LAST)
    if cflag not in allowed:
        raise _DamageError(offset, f"here is a part {cflag}, where {allowed[0]} or {allowed[1]} belongs")
    return cflag, word & ((1 << LENGTH_BITS) - 1)


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _read_header(take: Callable[[int], bytes], length: int, offset: int) -> tuple[int, Float32]:
    """Id and labels of an image record of ``length`` bytes; what ``take`` gives then is its image."""
    if length < IMAGE_HEADER.size:
        raise _DamageError(offset, f"{length} bytes are too few for the header of an image record")
    flag, label, identity, _ = IMAGE_HEADER.unpack(take(IMAGE_HEADER.size))
    if IMAGE_HEADER.size + 4 * flag > length:
        raise _DamageError(offset, f"{length} bytes are too few for the record's {flag} labels")
    if flag:
        return identity, np.frombuffer(take(4 * flag), "<f4").astype(np.float32)
    return identity, np.asarray([label], np.float32)


def _without_first(ranges: list[_Range], count: int) -> list[_Range]:
    rest = []
    for start, length in ranges:
        cut = min(count, length)
        rest.append((start + cut, length - cut))
        count -= cut
    return rest
