"""The classes that the channels of a job agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from tilewise.data.annotations import Annotated, Example, Report, make_records
from tilewise.errors import UserError

MAX_CLASSES = 100_000
"""More are taken for a mistake in the data."""


def agreed_classes(channels: Mapping[str, Annotated], num_classes: int | None) -> tuple[str, ...]:
    """The names of the classes, by label.

    Args:
        channels: what each channel holds, ``train`` first: its classes count.
        num_classes: how many the job says there are; None to take it from the data.

    Raises:
        UserError: there are not that many, or some channels have names and others numbers.

    """
    first = next(iter(channels.values()))
    # A channel without objects has neither, and agrees with all.
    counted = {name: one for name, one in channels.items() if one is first or one.used}
    if len({annotated.classes is None for annotated in counted.values()}) > 1:
        kinds = ", ".join(
            f"{name} has {'numbers' if annotated.classes is None else 'names'}"
            for name, annotated in counted.items()
        )
        raise UserError(
            f"the channels hold different formats: the classes of {kinds}; use one format for all of them, "
            "and name the classes in all of them or in none"
        )
    if not first.classes:
        return _numbered(channels, num_classes)
    ids = {number for annotated in channels.values() for number in annotated.ids}
    if num_classes and len(first.classes) < num_classes and 0 < len(ids) and max(ids) < num_classes:
        return _with_gaps(channels.values(), num_classes)
    return _named(first, num_classes)


def _with_gaps(channels: Iterable[Annotated], num_classes: int) -> tuple[str, ...]:
    """Some of the classes that the job counts have no object in the data: they are called by their ids."""
    names: dict[int, str] = {}
    for annotated in channels:
        if annotated.ids and annotated.classes:
            for number, name in zip(annotated.ids, annotated.classes, strict=True):
                names.setdefault(number, name)
    return tuple(names.get(number, str(number)) for number in range(num_classes))


def _numbered(channels: Mapping[str, Annotated], num_classes: int | None) -> tuple[str, ...]:
    """Classes are ids counted from 0: as many as the job says, or up to the largest that an object has."""
    used = frozenset[int]().union(*(annotated.used for annotated in channels.values()))
    count = num_classes or 1 + max(used, default=-1)
    if not num_classes and count > MAX_CLASSES:
        raise UserError(f"there are objects with class_id {max(used)}: correct it, or give num_classes")
    if not count:
        for name, annotated in channels.items():
            make_records(annotated.examples, Report(name))  # raises where damaged files are the reason
        raise UserError("no image has an object: give num_classes if that is meant")
    for name, annotated in channels.items():
        if max(annotated.used, default=-1) >= count:
            _refuse_id(name, annotated, count)
    given = next(iter(channels.values())).names
    names = [given.get(number, str(number)) for number in range(count)]
    return tuple(names if len(set(names)) == count else map(str, range(count)))


def _refuse_id(channel: str, annotated: Annotated, count: int) -> None:
    for example in annotated.examples:
        number = int(example.labels.max(initial=-1))
        if number >= count:
            raise UserError(
                f"channel {channel}: {example.key} has class_id {number}, but num_classes is {count}, "
                f"so ids go from 0 to {count - 1}: raise num_classes or correct the file"
            )


def _named(train: Annotated, num_classes: int | None) -> tuple[str, ...]:
    classes = train.classes or ()
    if num_classes is None or len(classes) == num_classes:
        return classes
    used = tuple(classes[index] for index in sorted(train.used))
    if len(used) != num_classes:
        raise UserError(
            f"num_classes is {num_classes}, but channel train has {len(classes)} categories "
            f"({', '.join(classes)}), {len(used)} of them with objects"
        )
    return used


def in_classes(annotated: Annotated, classes: tuple[str, ...], who: str, whose: str) -> list[Example]:
    """Examples with labels into ``classes``.

    Args:
        annotated: its own labels are translated by the classes' names; numbers are left as they are.
        classes: names by label.
        who: what the examples are, for messages: ``channel validation``.
        whose: who has ``classes``: ``channel train``.

    Raises:
        UserError: an object is of a class that is not among them; the message shows both lists.

    """
    own = annotated.classes
    if own is None or own == classes:
        return annotated.examples
    if not {own[index] for index in annotated.used} <= set(classes):
        raise UserError(
            f"{who} has objects of classes that {whose} does not know: {whose} has ({', '.join(classes)}), "
            f"{who} has ({', '.join(own)})"
        )
    index_of = {name: index for index, name in enumerate(classes)}
    table = np.asarray([index_of.get(name, -1) for name in own], dtype=np.int64)
    return [replace(example, labels=table[example.labels]) for example in annotated.examples]
