from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewise.data.annotations import ChannelSource, ParsedChannel, read_format
from tilewise.data.channel import ChannelFolder, parse_channel
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import make_records
from tilewise.data.classes import ClassIds, agreed_classes, in_classes
from tilewise.data.files.folder import Folder, OneFile
from tilewise.data.formats.azure_jsonl import find_azure_jsonl
from tilewise.data.formats.box_csv import find_box_csv
from tilewise.data.formats.coco import coco_format
from tilewise.data.formats.cvat import find_cvat
from tilewise.data.formats.label_lists import find_label_csv, find_lst
from tilewise.data.formats.label_studio import find_label_studio
from tilewise.data.formats.manifest import find_manifest
from tilewise.data.formats.via import find_via
from tilewise.data.records import Records
from tilewise.errors import UserError

_OF_ONE_FILE = (find_manifest, find_azure_jsonl, find_cvat, find_label_studio, find_via, find_box_csv)
"""Formats of one file with all annotations; what is none of them is read as COCO."""
_LABELS_OF_ONE_FILE = (find_manifest, find_azure_jsonl, find_lst, find_label_csv)
"""The same where images have labels."""


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
        annotations: the folder or the file of the annotations, where they are not in ``folder``.
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
    examples = in_classes(parsed, known, f"channel {name}", whose="the list of classes")
    if parsed.classes is None:
        examples = [ClassIds(len(known)).to_labels(example, name, parsed.names) for example in examples]
    issues = ChannelIssues(name)
    return Channel(make_records(examples, issues), known, issues)


def read_annotated(
    name: str,
    folder: Path,
    annotations: Path | None,
    *,
    label_attribute: str | None = None,
    fields: frozenset[str] = frozenset(),
) -> ParsedChannel:
    """Read a channel, before its classes are agreed with those of others.

    Args:
        name: the channel's, for messages.
        folder: its own.
        annotations: the folder of its annotation channel, or one file with all of them, or None.
        label_attribute: of an augmented manifest with several, the one to read.
        fields: the optional fields of the ground truth to read.

    Raises:
        UserError: a folder is missing, or holds no format or several.

    """
    if annotations is not None and annotations.is_file():
        if not folder.is_dir():
            raise UserError(f"the folder of channel {name} is not there: {folder}")
        source = ChannelSource(
            name, Folder(folder), OneFile(annotations), annotations.name, label_attribute, fields
        )
        finders = _LABELS_OF_ONE_FILE if source.image_labels else _OF_ONE_FILE
        formats = [format for find in finders if (format := find(source))]
        if formats:
            return read_format(formats[0], source)
        if source.image_labels:
            raise UserError(
                f"{annotations.name} holds no labels of images: give Azure JSON lines, an augmented "
                "manifest, a CSV file with a title line, or a .lst file"
            )
        return read_format(coco_format(annotations, source), source)
    folders = {name: ChannelFolder(folder)}
    if annotations is not None:
        folders[f"{name}_annotation"] = ChannelFolder(annotations)
    return parse_channel(name, folders, label_attribute, fields=fields)
