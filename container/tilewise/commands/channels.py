"""What ``convert`` and ``inspect`` share: folders on the command line -> records."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import get_args

from tilewise.data.annotations import ParsedChannel
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import make_records
from tilewise.data.choice import EVERYTHING_OF_IT, DataChoice, ObjectsAs
from tilewise.data.classes import agreed_classes, in_classes
from tilewise.data.image_labels import ONE_LABEL, SEVERAL_LABELS
from tilewise.data.records import Records
from tilewise.errors import UserError
from tilewise.registry import DEFAULT_TASK, task_names
from tilewise.registry.classifiers import CLASSIFICATION, MULTILABEL

_LABELS = {CLASSIFICATION: ONE_LABEL, MULTILABEL: SEVERAL_LABELS}


def say_what_is_read() -> None:
    """Let the readers' messages, which a job logs, go to standard error."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tilewise").setLevel(logging.INFO)


def check_seed(seed: int) -> None:
    """Refuse what no random numbers begin with.

    Raises:
        UserError: it is negative, or has more than 32 bits.

    """
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: give a whole number from 0 to {2**32 - 1}")


def add_task(parser: argparse.ArgumentParser) -> None:
    """The options that say what the images have."""
    parser.add_argument(
        "--task",
        choices=task_names(),
        default=DEFAULT_TASK,
        help="detection and instance_segmentation: images have objects, whose masks are read where they have "
        "some; the others: they have one class, or any number",
    )
    parser.add_argument(
        "--objects-as",
        choices=get_args(ObjectsAs),
        help="images have objects, and shall have classes: as the hyperparameter objects_as",
    )


def label_fields(arguments: argparse.Namespace) -> frozenset[str]:
    """The fields of the ground truth that hold the classes of images; none where they have objects.

    Raises:
        UserError: the options do not go together.

    """
    if arguments.objects_as and arguments.task not in _LABELS:
        raise UserError("--objects-as goes with --task classification or multilabel_classification")
    return frozenset({_LABELS[arguments.task]} if arguments.task in _LABELS else ())


def chosen_classes(channels: Mapping[str, ParsedChannel], names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes, by label: those that ``--classes`` gives, or what the channels say.

    Raises:
        UserError: a name is given twice, there are too few for the class ids, or the channels contradict one
            another.

    """
    if not names:
        return agreed_classes(channels, None)
    if len(set(names)) < len(names):
        raise UserError(f"--classes names a class twice: {', '.join(names)}")
    for name, channel in channels.items():
        largest = max(channel.used, default=-1)
        if channel.classes is None and largest >= len(names):
            raise UserError(
                f"channel {name} has the class id {largest}, but --classes names {len(names)} classes, with "
                f"ids from 0 to {len(names) - 1}: name one for each id"
            )
    return tuple(names)


def checked_records(
    channel: ParsedChannel,
    classes: tuple[str, ...],
    issues: ChannelIssues,
    *,
    whose: str,
    choice: DataChoice = EVERYTHING_OF_IT,
) -> Records:
    """A channel's chosen records with labels into those of ``classes``; ``whose`` these are, for messages."""
    examples = in_classes(channel, classes, f"channel {issues.channel}", whose=whose)
    return make_records(choice.of_examples(examples, classes, issues.channel), issues)
