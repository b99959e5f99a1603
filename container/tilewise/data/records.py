from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np

from tilewise.arrays import Array, Float64, Int64
from tilewise.boxes import sides, size_of_sides
from tilewise.data.recordio import open_image
from tilewise.targets import Targets

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
        targets: its ground truth, in pixels of the upright image.
        offset: where the image's record begins in a RecordIO file; :data:`WHOLE_FILE` for an image file.
        length: bytes of the encoded image; 0 where nobody has looked.
        encoded: the image itself, where it came through a pipe; :class:`Records` do not keep it.

    """

    key: str
    path: Path
    width: int
    height: int
    targets: Targets[Array]
    offset: int = WHOLE_FILE
    length: int = 0
    encoded: bytes | None = None

    @property
    def source(self) -> bytes | Path:
        """The encoded image, or its file, where it has one of its own."""
        return self.path if self.encoded is None and self.offset == WHOLE_FILE else self.read()

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
    targets: list[Targets[Array]] = field(default_factory=list)


@lru_cache(maxsize=4096)
def _path(name: bytes) -> Path:
    """To make a path of its parts takes as long as to place an image's boxes."""
    return Path(os.fsdecode(name))


class Records(Sequence[Record]):
    """Many records, packed into a few arrays: loader workers share them without a copy each.

    Attributes:
        targets: those of all records, one after the other.
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
            packed.targets.append(record.targets)
        self._text = np.frombuffer(b"".join(packed.names), dtype=np.uint8)
        self._text_ends = np.cumsum([len(name) for name in packed.names], dtype=np.int64)
        self.sizes = np.asarray(packed.sizes, dtype=np.int64).reshape(-1, 2)
        self._offsets = np.asarray(packed.offsets, dtype=np.int64)
        self.lengths = np.asarray(packed.lengths, dtype=np.int64)
        self._object_ends = np.cumsum([len(targets) for targets in packed.targets], dtype=np.int64)
        self.targets = Targets.cat(packed.targets or [Targets.none()])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # slices are not needed
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._object_ends[index - 1]) if index else 0
        width, height = self.sizes[index].tolist()
        return Record(
            key=self._text_at(2 * index).decode(errors=_ERRORS),
            path=_path(self._text_at(2 * index + 1)),
            width=width,
            height=height,
            targets=self.targets.select(slice(start, int(self._object_ends[index]))),
            offset=int(self._offsets[index]),
            length=int(self.lengths[index]),
        )

    def _text_at(self, index: int) -> bytes:
        start = self._text_ends[index - 1] if index else 0
        return self._text[start : self._text_ends[index]].tobytes()

    @property
    def object_counts(self) -> Int64:
        """(R,) the number of objects of each record."""
        return np.diff(self._object_ends, prepend=0)

    @property
    def object_sides(self) -> Float64:
        """(N, 2) width and height in pixels of all objects, record by record."""
        return sides(self.targets.boxes).astype(np.float64)

    @property
    def object_sizes(self) -> Float64:
        """(N,) √area in pixels of all objects, record by record."""
        return size_of_sides(self.object_sides)

    def with_targets(self, targets: Targets[Array]) -> Records:
        """These records with other ground truth, of as many objects in their order."""
        other = copy.copy(self)
        other.targets = targets
        return other

    def relabel(self, labels: Int64) -> Records:
        """These records, with ``labels[label]`` in place of each ``label``."""
        return self.with_targets(replace(self.targets, labels=labels[self.targets.labels]))

    def select(self, indices: Iterable[int]) -> Records:
        """The records at ``indices``, in that order."""
        return Records(self[index] for index in indices)
