from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewise.data.annotations import ChannelIssues, ParsedChannel, make_records
from tilewise.data.channel import ChannelFolder, parse_channel
from tilewise.data.classes import ClassIds, agreed_classes, in_classes
from tilewise.data.folder import Folder
from tilewise.data.formats.coco import read_coco
from tilewise.data.records import Records
from tilewise.errors import UserError


@dataclass(frozen=True)
class Channel:
    """Images with their ground truth.

    Attributes:
        records: those that can be used; their images are read when they are asked for.
        classes: names by label.
        issues: what became of the others, and of boxes that were clipped or dropped.

    """

    records: Records
    classes: tuple[str, ...]
    issues: ChannelIssues


def read_channel(
    folder: Path | str, annotations: Path | str | None = None, *, classes: Sequence[str] | None = None
) -> Channel:
    """Read a folder of images with their ground truth, in any format that a training job takes.

    Args:
        folder: the images; RecordIO files; or images and annotations.
        annotations: the folder of the annotations, or a COCO file, where they are not in ``folder``.
        classes: names by label, such as a model's; None for those of the data.

    Raises:
        UserError: a folder is missing or holds no format or several, an object is of another class, or too
            many images cannot be used.

    Example:
        >>> channel = read_channel("data/validation", classes=predictor.classes)
        >>> channel.records[0].boxes

    """
    folder = Path(folder)
    name = folder.resolve().name
    parsed = read_annotated(name, folder, None if annotations is None else Path(annotations))
    known = agreed_classes({name: parsed}, None) if classes is None else tuple(classes)
    examples = in_classes(parsed, known, f"channel {name}", "the list of classes")
    if parsed.classes is None:
        examples = [ClassIds(len(known)).to_labels(example, name, parsed.names) for example in examples]
    issues = ChannelIssues(name)
    return Channel(make_records(examples, issues), known, issues)


def read_annotated(name: str, folder: Path, annotations: Path | None) -> ParsedChannel:
    """Read a channel, before its classes are agreed with those of others.

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
    return parse_channel(name, folders)
