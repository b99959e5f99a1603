from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from tilewise.arrays import Bool, Float32, Float64, Int64
from tilewise.boxes import sides, size_of_sides
from tilewise.data.recordio import open_image

WHOLE_FILE = -1
"""The offset of an image that is a file of its own."""

_ERRORS = "surrogatepass"  # keys come from JSON, too, which can hold halves of characters


@dataclass(frozen=True)
class Record:
    """One encoded image with its ground truth.

    Attributes:
        key: names the record in every message; for a file its path relative to its channel.
        path: the image file, or the RecordIO file that holds it.
        width, height: pixels of the upright image.
        boxes: (N, 4) float32 ``xmin, ymin, xmax, ymax`` in pixels of the upright image.
        labels: (N,) int64, 0-based.
        ignored: (N,) bool: crowds and difficult objects, neither object nor background to a loss or a metric.
        offset: where the image's record begins in a RecordIO file; :data:`WHOLE_FILE` for an image file.
        length: bytes of the encoded image; 0 where nobody has looked.
        encoded: the image itself, where it came through a pipe; :class:`Records` do not keep it.

    """

    key: str
    path: Path
    width: int
    height: int
    boxes: Float32
    labels: Int64
    ignored: Bool
    offset: int = WHOLE_FILE
    length: int = 0
    encoded: bytes | None = None

    def read(self) -> bytes:
        """The encoded image."""
        if self.encoded is not None:
            return self.encoded
        with open_encoded(self.path, self.offset) as file:
            return file.read()


def open_encoded(path: Path, offset: int, encoded: bytes | None = None) -> IO[bytes]:
    """An encoded image: ``encoded``, an image file, or in the record at ``offset`` of a RecordIO file.

    Raises:
        DecodeError: no record begins there.

    """
    if encoded is not None:
        return io.BytesIO(encoded)
    return path.open("rb") if offset == WHOLE_FILE else open_image(path, offset)


@dataclass
class _Packed:
    names: list[bytes] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    boxes: list[Float32] = field(default_factory=list)
    labels: list[Int64] = field(default_factory=list)
    ignored: list[Bool] = field(default_factory=list)


class Records(Sequence[Record]):
    """Many records, packed into a few arrays: loader workers share them without a copy each.

    Attributes:
        boxes, labels, ignored: those of all records, one after the other.
        sizes: (R, 2) int64 width and height.
        lengths: (R,) int64 bytes of each encoded image.

    """

    def __init__(self, records: Iterable[Record]):
        packed = _Packed()
        for record in records:
            packed.names += [record.key.encode(errors=_ERRORS), os.fsencode(record.path)]
            packed.sizes.append((record.width, record.height))
            packed.offsets.append(record.offset)
            packed.lengths.append(record.length)
            packed.counts.append(len(record.labels))
            packed.boxes.append(record.boxes)
            packed.labels.append(record.labels)
            packed.ignored.append(record.ignored)
        self._text = np.frombuffer(b"".join(packed.names), dtype=np.uint8)
        self._text_ends = np.cumsum([len(name) for name in packed.names], dtype=np.int64)
        self.sizes = np.asarray(packed.sizes, dtype=np.int64).reshape(-1, 2)
        self._offsets = np.asarray(packed.offsets, dtype=np.int64)
        self.lengths = np.asarray(packed.lengths, dtype=np.int64)
        self._box_ends = np.cumsum(packed.counts, dtype=np.int64)
        self.boxes = np.concatenate([*packed.boxes, np.zeros((0, 4), np.float32)])
        self.labels = np.concatenate([*packed.labels, np.zeros(0, np.int64)])
        self.ignored = np.concatenate([*packed.ignored, np.zeros(0, np.bool_)])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # slices are not needed
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._box_ends[index - 1]) if index else 0
        of = slice(start, int(self._box_ends[index]))
        width, height = self.sizes[index].tolist()
        return Record(
            key=self._text_at(2 * index).decode(errors=_ERRORS),
            path=Path(os.fsdecode(self._text_at(2 * index + 1))),
            width=width,
            height=height,
            boxes=self.boxes[of],
            labels=self.labels[of],
            ignored=self.ignored[of],
            offset=int(self._offsets[index]),
            length=int(self.lengths[index]),
        )

    def _text_at(self, index: int) -> bytes:
        start = self._text_ends[index - 1] if index else 0
        return self._text[start : self._text_ends[index]].tobytes()

    @property
    def object_counts(self) -> Int64:
        """(R,) the number of objects of each record."""
        return np.diff(self._box_ends, prepend=0)

    @property
    def object_sides(self) -> Float64:
        """(N, 2) width and height in pixels of all objects, record by record."""
        return sides(self.boxes).astype(np.float64)

    @property
    def object_sizes(self) -> Float64:
        """(N,) √area in pixels of all objects, record by record."""
        return size_of_sides(self.object_sides)

    def select(self, indices: Iterable[int]) -> Records:
        """The records at ``indices``, in that order."""
        return Records(self[index] for index in indices)
