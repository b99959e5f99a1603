"""RecordIO files of images with their boxes, byte for byte as MXNet 1.9.1 writes them.

Specification: dmlc-core, ``src/recordio.cc``; MXNet, ``python/mxnet/recordio.py`` (``pack``) and
``tools/im2rec.py`` (``.lst``, ``.idx``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import IO

import numpy as np
import numpy.typing as npt

from tilewise.data.recordio import (
    ALIGNMENT,
    FIRST,
    IMAGE_HEADER,
    LAST,
    LENGTH_BITS,
    MAGIC,
    MIDDLE,
    WHOLE,
)
from tilewise.data.records import Record
from tilewise.data.writers.output import Output
from tilewise.errors import UserError

MAX_LENGTH = (1 << LENGTH_BITS) - 1
"""Bytes that a record may have, its image and labels together."""

_EMPTY_WRITTEN = (
    "images without objects: MXNet refuses the file (Tilewise does not); --skip-empty leaves them out"
)
_EMPTY_SKIPPED = "images without objects left out, as --skip-empty says"
_NOT_MXNETS = "images are GIF or WebP, which Tilewise decodes, but MXNet 1.9 does not"


def pack(identity: int, labels: npt.ArrayLike, image: bytes) -> bytes:
    """The content of an image record: as ``mx.recordio.pack`` with an array of labels, or with a number."""
    if isinstance(labels, int):
        return IMAGE_HEADER.pack(0, float(labels), identity, 0) + image
    packed = np.asarray(labels, "<f4").tobytes()
    return IMAGE_HEADER.pack(len(packed) // 4, 0.0, identity, 0) + packed + image


def write_record(file: IO[bytes], content: bytes) -> None:
    """Append one record to a file.

    Where the magic lies in the content at a multiple of four bytes, it is left out, and another part begins.

    Raises:
        ValueError: the content has more than :data:`MAX_LENGTH` bytes.

    """
    if len(content) > MAX_LENGTH:
        raise ValueError(f"{len(content):,} bytes are more than the {MAX_LENGTH:,} that a record may have")
    begin, flag = 0, WHOLE
    for cut in _aligned_magics(content):
        _write_part(file, MIDDLE if flag else FIRST, content[begin:cut])
        begin, flag = cut + len(MAGIC), LAST
    _write_part(file, flag, content[begin:])


def _aligned_magics(content: bytes) -> Iterable[int]:
    at = content.find(MAGIC)
    while at >= 0:
        aligned = at % ALIGNMENT == 0
        if aligned:
            yield at
        at = content.find(MAGIC, at + (len(MAGIC) if aligned else 1))


def _write_part(file: IO[bytes], flag: int, part: bytes) -> None:
    file.write(MAGIC + struct.pack("<I", flag << LENGTH_BITS | len(part)))
    file.write(part)
    file.write(bytes(-len(part) % ALIGNMENT))


def write_recordio(
    records: Iterable[Record],
    classes: tuple[str, ...],
    output: Output,
    *,
    name: str = "train",
    difficult: bool = False,
    with_size: bool = False,
    skip_empty: bool = False,
) -> None:
    """Write ``<name>.rec``, ``.idx`` and ``.lst``; ids count from 0, and class ids are the labels.

    Args:
        records: what to write; images are passed through.
        classes: their names, for which the format has no place.
        output: where to.
        name: of the files.
        difficult: whether objects have a sixth number that says so; without it ignored boxes are left out.
        with_size: whether the labels' header has the image's width and height, as GluonCV writes it.
        skip_empty: leave images without objects out.

    Raises:
        UserError: an image is too large for a record.

    """

    def labelled() -> Iterator[tuple[Record, list[int | float]]]:
        for record in records:
            label = _label(record, output, difficult=difficult, with_size=with_size)
            empty = len(label) <= label[0]
            if empty and skip_empty:
                output.notes[_EMPTY_SKIPPED] += 1
                continue
            output.notes[_EMPTY_WRITTEN] += empty
            yield record, label

    write_image_records(labelled(), output, name=name)


def write_image_records(
    labelled: Iterable[tuple[Record, Sequence[int | float] | int]], output: Output, *, name: str
) -> None:
    """Write ``<name>.rec``, ``.idx`` and ``.lst`` of images, each with its label: numbers, or one.

    Raises:
        UserError: an image is too large for a record.

    """
    with ExitStack() as stack:
        rec = stack.enter_context((output.folder / f"{name}.rec").open("xb"))
        idx = stack.enter_context((output.folder / f"{name}.idx").open("x", encoding="utf-8", newline="\n"))
        lst = stack.enter_context((output.folder / f"{name}.lst").open("x", encoding="utf-8", newline="\n"))
        for record, label in labelled:
            image = record.read()
            identity, offset = output.images, rec.tell()
            try:
                write_record(rec, pack(identity, label, image))
            except ValueError as error:
                raise UserError(
                    f"{record.key}: its record would be too large: {error}; make the image smaller"
                ) from None
            output.count(len(image))
            output.notes[_NOT_MXNETS] += image[:4] == b"GIF8" or image[8:12] == b"WEBP"
            idx.write(f"{identity}\t{offset}\n")
            numbers = "\t".join(map(repr, [label] if isinstance(label, int) else label))
            lst.write(f"{identity}\t{numbers}\t{output.name(record, output.suffix(record, image))}\n")


def _label(record: Record, output: Output, *, difficult: bool, with_size: bool) -> list[int | float]:
    """MXNet's label of an image; fractions as float64, which become the float32 that im2rec makes of them."""
    width, height = record.width, record.height
    object_width = 6 if difficult else 5
    label: list[int | float] = [4, object_width, width, height] if with_size else [2, object_width]
    for index, xmin, ymin, xmax, ymax, ignored in output.boxes_of(record, holds_ignored=difficult):
        label += [index, xmin / width, ymin / height, xmax / width, ymax / height]
        label += [int(ignored)] if difficult else []
    return label
