"""The classes that the channels of a job agree on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tilewise.data.annotations import ParsedChannel, RawExample
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import check_objects, make_records
from tilewise.data.plausibility import spelt_alike
from tilewise.data.quoting import some
from tilewise.errors import UserError

log = logging.getLogger(__name__)

MAX_CLASSES = 100_000
"""More are taken for a mistake in the data."""

ClassMap = Mapping[int, str]
"""Class id -> name, in the order of the ids."""


@dataclass(frozen=True)
class ClassIds:
    """The class ids that a job knows; an id's label is its place among them.

    Attributes:
        count: how many classes there are.
        class_map: the ids, where the hyperparameter class_map lists them; else they are 0, 1, … count - 1.

    """

    count: int
    class_map: ClassMap = field(default_factory=dict)

    def to_labels(self, example: RawExample, channel: str, class_names: ClassMap | None = None) -> RawExample:
        """An example whose labels are class ids, with labels instead.

        Args:
            example: the example.
            channel: names it in messages.
            class_names: what the data calls some ids, for messages.

        Raises:
            UserError: an object has another id.

        """
        ids = example.targets.labels
        if not self.class_map:
            if int(ids.max(initial=-1)) >= self.count:
                raise UserError(self._refusal(example.key, int(ids.max()), channel, class_names or {}))
            return example
        listed_ids = np.asarray(sorted(self.class_map), np.int64)
        if unknown := sorted({*ids.tolist()} - self.class_map.keys()):
            raise UserError(self._refusal(example.key, unknown[0], channel, class_names or {}))
        return example.with_labels(np.searchsorted(listed_ids, ids).astype(np.int64))

    def _refusal(self, key: str, number: int, channel: str, class_names: ClassMap) -> str:
        start = f"channel {channel}: {key} has class_id {number}, but"
        names = ", ".join(f"{number} {name}" for number, name in sorted(class_names.items()))
        names = f" (the data so far names {names})" if names else ""
        if self.class_map:
            ids = ", ".join(map(str, sorted(self.class_map)))
            return f"{start} class_map has only {ids}{names}: add it there"
        return (
            f"{start} num_classes is {self.count}, so ids go from 0 to {self.count - 1}{names}: raise "
            "num_classes, correct the data, or list the ids that it has in the hyperparameter class_map, "
            'such as {"0": "dog", "5": "cat"}'
        )


def agreed_classes(
    channels: Mapping[str, ParsedChannel], num_classes: int | None, class_map: ClassMap | None = None
) -> tuple[str, ...]:
    """The names of the classes, by label.

    Args:
        channels: what each channel holds, ``train`` first: its classes count.
        num_classes: how many the job says there are; None to take it from the data.
        class_map: which class ids there are and what they are called, where the job says so.

    Raises:
        UserError: there are not that many, or some channels have names and others numbers.

    """
    classes = _agreed(channels, num_classes, class_map)
    for doubt in spelt_alike(classes):
        log.warning("%s", doubt)
    return classes


def _agreed(
    channels: Mapping[str, ParsedChannel], num_classes: int | None, class_map: ClassMap | None
) -> tuple[str, ...]:
    first = next(iter(channels.values()))
    # A channel without objects has neither, and agrees with all; a pipe's, without examples yet, has numbers.
    counted = {name: one for name, one in channels.items() if one is first or one.used or not one.examples}
    if len({channel.classes is None for channel in counted.values()}) > 1:
        kinds = {name: "numbers" if channel.classes is None else "names" for name, channel in counted.items()}
        (name, kind), *others = kinds.items()
        rest = "".join(f", of {other} {its_kind}" for other, its_kind in others)
        raise UserError(
            f"the classes of {name} are {kind}{rest}: use one format for all channels, and name the classes "
            "in all of them or in none (of YOLO's files each channel needs a copy of data.yaml)"
        )
    if not first.classes:
        return _numbered(channels, num_classes, class_map)
    if class_map:
        raise UserError(
            "class_map gives names to class ids, but the channels hold a format whose classes have names "
            f"({', '.join(first.classes)}): leave class_map out"
        )
    ids = {number for channel in channels.values() for number in channel.ids}
    if num_classes and len(first.classes) < num_classes and 0 < len(ids) and max(ids) < num_classes:
        return _with_gaps(channels.values(), num_classes)
    return _named(first, num_classes, _groups(channels.values()))


def _groups(channels: Iterable[ParsedChannel]) -> frozenset[str]:
    """What stands for a group of classes in the first channel, and has no object in any."""
    first, *others = channels
    used = {one.classes[label] for one in others if one.classes for label in one.used}
    return first.groups - used


def _with_gaps(channels: Iterable[ParsedChannel], num_classes: int) -> tuple[str, ...]:
    """Some of the classes that the job counts have no object in the data: they are called by their ids."""
    names: dict[int, str] = {}
    for channel in channels:
        if channel.ids and channel.classes:
            for number, name in zip(channel.ids, channel.classes, strict=True):
                names.setdefault(number, name)
    return tuple(names.get(number, str(number)) for number in range(num_classes))


def _numbered(
    channels: Mapping[str, ParsedChannel], num_classes: int | None, class_map: ClassMap | None
) -> tuple[str, ...]:
    """Classes are ids counted from 0: as many as the job says, or up to the largest that an object has."""
    if class_map:
        return tuple(class_map[number] for number in sorted(class_map))
    used = frozenset[int]().union(*(channel.used for channel in channels.values()))
    count = num_classes or 1 + max(used, default=-1)
    if not num_classes and count > MAX_CLASSES:
        raise UserError(f"there are objects with class_id {max(used)}: correct it, or give num_classes")
    if not count:
        for name, channel in channels.items():
            make_records(channel.examples, ChannelIssues(name))  # raises where damaged files are the reason
        check_objects(next(iter(channels)), objects=False)
    if not num_classes and used and min(used) > 0:
        log.warning(
            "nothing has the class id 0, though ids count from 0: if yours are others, list them with their "
            'names in the hyperparameter class_map, such as {"1": "dog", "2": "cat"}'
        )
    names_by_id = next(iter(channels.values())).names
    unused = [names_by_id[number] for number in sorted(names_by_id) if number >= count]
    if unused and not num_classes:
        log.info(
            "left out of the classes, since no object has their id: %s (num_classes=%d keeps them)",
            some(unused),
            1 + max(names_by_id),
        )
    names = [names_by_id.get(number, str(number)) for number in range(count)]
    return tuple(names if len(set(names)) == count else map(str, range(count)))


def _named(train: ParsedChannel, num_classes: int | None, groups: frozenset[str]) -> tuple[str, ...]:
    classes = train.classes or ()
    if len(classes) == num_classes:
        return classes
    proper = tuple(name for name in classes if name not in groups) or classes
    if num_classes in (None, len(proper)):
        if len(proper) < len(classes):
            log.info(
                "left out of the classes, since they have no object and stand for a group of others: %s",
                ", ".join(name for name in classes if name in groups),
            )
        return proper
    used = tuple(classes[index] for index in sorted(train.used))
    if len(used) != num_classes:
        raise UserError(
            f"num_classes is {num_classes}, but channel train has {len(classes)} categories "
            f"({', '.join(classes)}), {len(used)} of them with objects"
        )
    return used


def in_classes(channel: ParsedChannel, classes: tuple[str, ...], who: str, *, whose: str) -> list[RawExample]:
    """Examples with labels into ``classes``.

    Args:
        channel: its own labels are translated by the classes' names; numbers are left as they are.
        classes: names by label.
        who: what the examples are, for messages: ``channel validation``.
        whose: who has ``classes``: ``channel train``.

    Raises:
        UserError: an object is of a class that is not among them; the message shows both lists.

    """
    own_classes = channel.classes
    if own_classes is None or own_classes == classes:
        return channel.examples
    unknown = sorted({own_classes[index] for index in channel.used} - set(classes))
    if unknown:
        alike = " ".join(f"; {one}" for one in spelt_alike([*classes, *unknown]))
        raise UserError(
            f"{who} has classes that {whose} does not know: {whose} has ({', '.join(classes)}), "
            f"{who} has ({', '.join(own_classes)}); rename or remove {some(unknown)}{alike}"
        )
    index_of = {name: index for index, name in enumerate(classes)}
    table = np.asarray([index_of.get(name, -1) for name in own_classes], dtype=np.int64)
    return [example.with_labels(table[example.targets.labels]) for example in channel.examples]
