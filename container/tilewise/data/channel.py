"""Channels -> Records: which format a channel holds, which classes there are, and what was found."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tilewise.data.annotations import Example, Report, make_records
from tilewise.data.coco import find_coco_file, read_coco
from tilewise.data.image_json import read_image_json
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
    used: frozenset[int]


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
        raise UserError(f"the channel train is missing (channels given: {have}); it must hold the training images")
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
    if coco is not None:
        content = read_coco(coco, folder)
        return _Found(name, content.examples, content.classes, {}, content.used)
    if annotations is None:
        raise UserError(
            f"channel {name} holds neither a COCO JSON file beside its images, nor is there a channel {name}_annotation "
            "with one JSON file for each image"
        )
    pairs = read_image_json(folder, annotations, f"{name}_annotation")
    return _Found(name, pairs.examples, None, pairs.names, frozenset(range(pairs.largest_id + 1)))


def _classes(found: list[_Found], num_classes: int | None) -> tuple[str, ...]:
    train = found[0]
    if train.classes is not None:
        return _named_classes(found, num_classes)
    count = num_classes or max((len(one.used) for one in found), default=0)
    if not count:
        raise UserError("no image has an object: give num_classes if that is meant")
    for one in found:
        if one.classes is not None:
            raise UserError("the channels train and validation hold different formats: use one for both")
        _check_ids(one, count)
    names = [train.names.get(number, str(number)) for number in range(count)]
    return tuple(names if len(set(names)) == count else map(str, range(count)))


def _check_ids(found: _Found, count: int) -> None:
    for example in found.examples:
        for number in example.labels.tolist():
            if number >= count:
                raise UserError(
                    f"channel {found.channel}: {example.key} has class_id {number}, but num_classes is {count}, so ids go "
                    f"from 0 to {count - 1}: raise num_classes or correct the file"
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
        theirs = one.classes
        if theirs is None:
            raise UserError("the channels train and validation hold different formats: use one for both")
        if not {theirs[index] for index in one.used} <= set(classes):
            raise UserError(
                f"channel {one.channel} has objects of classes that channel train does not know: train has "
                f"({', '.join(classes)}), {one.channel} has ({', '.join(theirs)})"
            )
    return classes


def _split(found: _Found, classes: tuple[str, ...]) -> Split:
    examples = found.examples
    if found.classes is not None and found.classes != classes:
        index_of = {name: index for index, name in enumerate(classes)}
        table = np.asarray([index_of.get(name, -1) for name in found.classes], dtype=np.int64)
        examples = [replace(example, labels=table[example.labels]) for example in examples]
    report = Report(found.channel)
    return Split(make_records(examples, report), report)


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
    width = max(len(name) for name in classes)
    log.info("%s  %s", "class".ljust(width), "  ".join(f"{name:>10}" for name in names[: len(splits)]))
    counts = [np.bincount(split.records.labels, minlength=len(classes)) for split in splits]
    for index, name in enumerate(classes):
        log.info("%s  %s", name.ljust(width), "  ".join(f"{count[index]:>10}" for count in counts))
