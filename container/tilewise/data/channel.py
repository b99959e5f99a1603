"""Channels -> Records: which format a channel holds, which classes there are, and what was found."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tilewise.data.annotations import Example, ImageFinder, Report, make_records
from tilewise.data.coco import find_coco_file, read_coco
from tilewise.data.image_json import read_image_json
from tilewise.data.recordio_channel import find_record_files, read_record_files
from tilewise.data.records import Records
from tilewise.errors import UserError

log = logging.getLogger(__name__)

VALIDATION_SHARE = 0.2
"""The share of the training images that validate when there is no validation channel (Azure AutoML's)."""


@dataclass(frozen=True)
class Split:
    """The records of one channel, and the report of what became of its images and boxes."""

    records: Records
    report: Report


@dataclass(frozen=True)
class DataSet:
    """What a job trains and validates on; labels are indices into ``classes``."""

    classes: tuple[str, ...]
    train: Split
    validation: Split | None


@dataclass(frozen=True)
class _Found:
    """Examples as one channel has them, before its classes are reconciled with the other's."""

    channel: str
    examples: list[Example]
    classes: tuple[str, ...] | None  # None: ids without agreed names
    names: Mapping[int, str]
    used: frozenset[int]  # the labels that objects have


def read_data_set(
    folders: Mapping[str, Path], num_classes: int | None, may_split: bool, validates: bool, seed: int
) -> DataSet:
    """Read ``train`` and ``validation`` with their annotation channels, where they have any.

    Args:
        folders: channel name -> folder.
        num_classes: how many classes the job says there are; None to take it from the data.
        may_split: without a validation channel, whether some training images may stand in for it.
        validates: whether the job validates at all.
        seed: draws that part.

    Raises:
        UserError: a channel is missing or empty, holds no known format, or the classes do not agree.

    """
    if "train" not in folders:
        have = ", ".join(sorted(folders)) or "none"
        raise UserError(
            f"the channel train is missing (channels given: {have}); it must hold the training images"
        )
    if validates and "validation" not in folders and not may_split:
        raise UserError(
            "the channel validation is missing: a job with the built-in algorithm's hyperparameters needs one"
        )
    found = [_find(name, folders) for name in ("train", "validation") if name in folders]
    classes = _classes(found, num_classes)
    splits = [_split(one, classes) for one in found]
    if len(splits) == 1 and validates:
        log.info("no validation channel: %.0f %% of the training images validate", 100 * VALIDATION_SHARE)
        splits = _divide(splits[0], seed)
    _log_table(classes, splits)
    return DataSet(classes, splits[0], splits[1] if len(splits) > 1 else None)


def _find(name: str, folders: Mapping[str, Path]) -> _Found:
    folder, annotations = folders[name], folders.get(f"{name}_annotation")
    for part, path in ((name, folder), (f"{name}_annotation", annotations)):
        if path is not None and not path.is_dir():
            raise UserError(f"the folder of channel {part} is not there: {path}")
    coco = find_coco_file(annotations or folder)
    if record_files := find_record_files(folder):
        _refuse_other_formats(name, folder, [*record_files], coco, annotations)
        examples = read_record_files(record_files)
        return _Found(name, examples, None, {}, _used(examples))
    if coco is not None:
        content = read_coco(coco, folder)
        return _Found(name, content.examples, content.classes, {}, content.used)
    if annotations is None:
        raise UserError(
            f"channel {name} holds no COCO JSON file beside its images and no RecordIO file (.rec), and "
            f"there is no channel {name}_annotation with one JSON file for each image: give one of the three"
        )
    pairs = read_image_json(folder, annotations, f"{name}_annotation")
    return _Found(name, pairs.examples, None, pairs.names, _used(pairs.examples))


def _used(examples: list[Example]) -> frozenset[int]:
    return frozenset(int(label) for example in examples for label in np.unique(example.labels))


def _refuse_other_formats(
    name: str, folder: Path, record_files: list[str], coco: Path | None, annotations: Path | None
) -> None:
    others = [f"the COCO file {coco.name}"] if coco else []
    images = list(ImageFinder(folder).files)
    others += [f"image files ({images[0]}, …)"] if images else []
    others += [f"annotations in the channel {name}_annotation"] if annotations and not coco else []
    if others:
        raise UserError(
            f"channel {name} holds RecordIO files ({_some(record_files)}), which have images and boxes in "
            f"them, but there are also {' and '.join(others)}: keep one format"
        )


def _some(names: list[str]) -> str:
    return ", ".join([*names[:3], "…"] if len(names) > 3 else names)


def _classes(found: list[_Found], num_classes: int | None) -> tuple[str, ...]:
    if len({one.classes is None for one in found}) > 1:
        raise UserError("the channels train and validation hold different formats: use one for both")
    return _named_classes(found, num_classes) if found[0].classes else _numbered_classes(found, num_classes)


def _numbered_classes(found: list[_Found], num_classes: int | None) -> tuple[str, ...]:
    """Classes are ids counted from 0: as many as the job says, or up to the largest that an object has."""
    count = num_classes or 1 + max((number for one in found for number in one.used), default=-1)
    if not count:
        for one in found:
            make_records(one.examples, Report(one.channel))  # raises where damaged files are the reason
        raise UserError("no image has an object: give num_classes if that is meant")
    for one in found:
        _check_ids(one, count)
    names = [found[0].names.get(number, str(number)) for number in range(count)]
    return tuple(names if len(set(names)) == count else map(str, range(count)))


def _check_ids(found: _Found, count: int) -> None:
    for example in found.examples:
        number = int(example.labels.max(initial=-1))
        if number >= count:
            raise UserError(
                f"channel {found.channel}: {example.key} has class_id {number}, but num_classes is {count}, "
                f"so ids go from 0 to {count - 1}: raise num_classes or correct the file"
            )


def _named_classes(found: list[_Found], num_classes: int | None) -> tuple[str, ...]:
    classes = found[0].classes or ()
    if num_classes is not None and len(classes) != num_classes:
        used = tuple(classes[index] for index in sorted(found[0].used))
        if len(used) != num_classes:
            raise UserError(
                f"num_classes is {num_classes}, but channel train has {len(classes)} categories "
                f"({', '.join(classes)}), {len(used)} of them with objects"
            )
        classes = used
    for one in found[1:]:
        theirs = one.classes or ()
        if not {theirs[index] for index in one.used} <= set(classes):
            raise UserError(
                f"channel {one.channel} has objects of classes that channel train does not know: train has "
                f"({', '.join(classes)}), {one.channel} has ({', '.join(theirs)})"
            )
    return classes


def _split(found: _Found, classes: tuple[str, ...]) -> Split:
    examples = found.examples
    if found.classes is not None:
        examples = in_classes(examples, found.classes, classes)
    report = Report(found.channel)
    return Split(make_records(examples, report), report)


def in_classes(examples: list[Example], own: tuple[str, ...], classes: tuple[str, ...]) -> list[Example]:
    """Examples whose labels are indices into ``own``, with labels into ``classes`` of the same names."""
    if own == classes:
        return examples
    index_of = {name: index for index, name in enumerate(classes)}
    table = np.asarray([index_of.get(name, -1) for name in own], dtype=np.int64)
    return [replace(example, labels=table[example.labels]) for example in examples]


def _divide(split: Split, seed: int) -> list[Split]:
    order = np.random.default_rng(seed).permutation(len(split.records))
    count = round(VALIDATION_SHARE * len(order))
    if not 0 < count < len(order):
        raise UserError(
            f"channel train holds {len(order)} images, too few to set some aside: give a validation channel"
        )
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    return [
        Split(split.records.select(kept.tolist()), split.report),
        Split(split.records.select(held.tolist()), Report("validation", images=count)),
    ]


def _log_table(classes: tuple[str, ...], splits: list[Split]) -> None:
    """What was found, as the user should see it before an hour of training."""
    names = ["train", "validation"]
    for name, split in zip(names, splits, strict=False):
        records = split.records
        empty = int((records.object_counts == 0).sum())
        log.info("%s: %s; %d images without objects", name, split.report.summary(), empty)
    width = max(len(name) for name in ("class", *classes))
    log.info("%s  %s", "class".ljust(width), "  ".join(f"{name:>10}" for name in names[: len(splits)]))
    counts = [np.bincount(split.records.labels, minlength=len(classes)) for split in splits]
    for index, name in enumerate(classes):
        log.info("%s  %s", name.ljust(width), "  ".join(f"{count[index]:>10}" for count in counts))
