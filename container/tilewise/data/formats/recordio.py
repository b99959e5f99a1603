"""RecordIO channels, as SageMaker's built-in Object Detection takes them: files of images with their boxes.

Specification of the labels: MXNet, ``src/io/iter_image_det_recordio.cc`` and ``ImageDetLabel`` in
``src/io/image_det_aug_default.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from tilewise.arrays import Array, Float32, Int64
from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    check_fractions,
)
from tilewise.data.label_numbers import ImageLabels
from tilewise.data.quoting import some
from tilewise.data.recordio import ImageRecord, scan
from tilewise.targets import Targets

_MAX_CLASS_ID = 1 << 24  # beyond it a float32 is no longer exact


def find_recordio(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds ``.rec`` files."""
    files = source.images.with_suffix(".rec")
    if not files:
        return None
    if source.image_labels:
        read = partial(read_labelled_files, files, several=source.several_labels)
        return DetectedFormat("RecordIO", some(files), read)
    return DetectedFormat("RecordIO", some(files), partial(read_record_files, files))


def read_record_files(files: Mapping[str, Path]) -> ParsedChannel:
    """Read the labels of all records of some files, one file after the other.

    Raises:
        UserError: a file is damaged; the message names the file, the record and the byte.

    """
    return ParsedChannel(
        [make_example(name, path, record) for name, path in files.items() for record in scan(path)]
    )


def read_labelled_files(files: Mapping[str, Path], *, several: bool) -> ParsedChannel:
    """The same of images that have one class id, or with ``several`` 0 or 1 for each class.

    Raises:
        UserError: as :func:`read_record_files`.

    """
    kind = ImageLabels(several)
    examples = [
        make_example(name, path, record, kind) for name, path in files.items() for record in scan(path)
    ]
    return ParsedChannel(examples, kind.classes(some(files)))


def _targets(label: Float32) -> Targets[Array]:
    """Boxes as fractions of the image's sides, class ids, and which objects are difficult."""
    if len(label) < 2:
        raise ValueError(
            "its label is a single number, without boxes: write the file with im2rec's option --pack-label"
        )
    header, width = label[:2].tolist()
    if not (header.is_integer() and 2 <= header <= len(label) and width.is_integer() and width >= 5):
        raise ValueError(
            f"its label of {len(label)} numbers begins with {header:g} and {width:g}: these must be how many "
            "numbers its header has, 2 or more, and each object, 5 or more"
        )
    if (len(label) - header) % width:
        raise ValueError(
            f"its label has {len(label) - header:g} numbers after its header, not {width:g} for each object"
        )
    rows = label[int(header) :].reshape(-1, int(width))
    rows = rows[(rows[:, :5] != -1).any(axis=1)]  # with such rows MXNet makes labels equally long
    difficult = rows[:, 5] > 0 if width > 5 else np.zeros(len(rows), np.bool_)
    return Targets(check_fractions(rows[:, 1:5]), _class_ids(rows[:, 0]), difficult)


def make_example(name: str, path: Path, record: ImageRecord, labels: ImageLabels | None = None) -> RawExample:
    """An image record's boxes and class ids, or why they cannot be read; with ``labels`` those of images."""
    problem = ""
    try:
        targets = labels.of_numbers(record.labels.tolist()) if labels else _targets(record.labels)
    except ValueError as error:
        problem = str(error)
        targets = Targets.none()
    return RawExample(
        key=f"{name}#{record.number} (id {record.id})",
        path=path,
        offset=record.offset,
        size=None,
        targets=targets,
        fractions=True,
        problem=problem,
    )


def _class_ids(numbers: Float32) -> Int64:
    wrong = numbers[~((numbers >= 0) & (numbers < _MAX_CLASS_ID) & (numbers == np.floor(numbers)))]
    if len(wrong):
        raise ValueError(f"an object has the class id {wrong[0]:g}, which is not 0, 1, 2, …")
    return numbers.astype(np.int64)
