"""RecordIO channels, as SageMaker's built-in Object Detection takes them: files of images with their boxes.

Specification of the labels: MXNet, ``src/io/iter_image_det_recordio.cc`` and ``ImageDetLabel`` in
``src/io/image_det_aug_default.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    some,
)
from tilewise.data.image_labels import check_one_width, hot_labels, one_label, whole_image_targets
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
    read = _of_classes if several else _of_class
    examples, widths = [], set()
    for name, path in files.items():
        for record in scan(path):
            widths.add(len(record.labels))
            examples.append(make_example(name, path, record, read))
    if several:
        check_one_width(widths, some(files))
    return ParsedChannel(examples, tuple(map(str, range(max(widths, default=0)))) if several else None)


def _of_classes(label: Float32) -> Targets[Array]:
    return whole_image_targets(hot_labels(label.tolist()))


def _of_class(label: Float32) -> Targets[Array]:
    return whole_image_targets(one_label(label.tolist()))


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
    difficult = rows[:, 5] > 0 if width > 5 else np.zeros(len(rows), np.bool_)
    return Targets(check_fractions(rows[:, 1:5]), _class_ids(rows[:, 0]), difficult)


def make_example(
    name: str, path: Path, record: ImageRecord, read: Callable[[Float32], Targets[Array]] = _targets
) -> RawExample:
    """An image record's boxes and class ids, or why they cannot be read; ``read`` reads its label."""
    problem = ""
    try:
        targets = read(record.labels)
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
