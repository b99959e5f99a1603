"""What ``convert`` and ``inspect`` share: folders on the command line -> records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from tilewise.data.annotations import ChannelIssues, ParsedChannel, make_records
from tilewise.data.channel import ChannelFolder, read_channel
from tilewise.data.classes import agreed_classes, in_classes
from tilewise.data.folder import Folder
from tilewise.data.formats.coco import read_coco
from tilewise.data.records import Records
from tilewise.errors import UserError


def say_what_is_read() -> None:
    """Let the readers' messages, which a job logs, go to standard error."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tilewise").setLevel(logging.INFO)


def read_annotated(name: str, folder: Path, annotations: Path | None) -> ParsedChannel:
    """Read a channel.

    Args:
        name: the channel's, for messages.
        folder: its own.
        annotations: the folder of its annotation channel, or one COCO file, or None.

    Raises:
        UserError: a folder is missing, or holds no format or several.

    """
    if annotations is not None and annotations.is_file():
        if not folder.is_dir():
            raise UserError(f"the folder of channel {name} is not there: {folder}")
        return read_coco(annotations, Folder(folder))
    folders = {name: ChannelFolder(folder)}
    if annotations is not None:
        folders[f"{name}_annotation"] = ChannelFolder(annotations)
    return read_channel(name, folders)


def chosen_classes(channels: Mapping[str, ParsedChannel], given: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes, by label: those that ``--classes`` gives, or what the channels say.

    Raises:
        UserError: a name is given twice, there are too few for the class ids, or the channels contradict one
            another.

    """
    if not given:
        return agreed_classes(channels, None)
    if len(set(given)) < len(given):
        raise UserError(f"--classes names a class twice: {', '.join(given)}")
    for name, annotated in channels.items():
        largest = max(annotated.used, default=-1)
        if annotated.classes is None and largest >= len(given):
            raise UserError(
                f"channel {name} has the class id {largest}, but --classes names {len(given)} classes, with "
                f"ids from 0 to {len(given) - 1}: name one for each id"
            )
    return tuple(given)


def checked_records(
    annotated: ParsedChannel, classes: tuple[str, ...], issues: ChannelIssues, whose: str
) -> Records:
    """A channel's records with labels into ``classes``; ``whose`` these are, for messages."""
    return make_records(in_classes(annotated, classes, f"channel {issues.channel}", whose), issues)
