"""An augmented manifest as a file, with its images beside it or in S3.

Specification: the developer guide's "Object Detection", section "Train with Augmented Manifest Image Format",
and Ground Truth's "Bounding box job output".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tilewise.arrays import Array
from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    two_for_one_image,
    unusable,
)
from tilewise.data.folder import Folder
from tilewise.data.ground_truth import class_map, parse_label
from tilewise.data.json_lines import MANIFEST, find_json_lines, path_in, read_json_lines
from tilewise.data.s3 import fetch_images, is_s3
from tilewise.errors import UserError
from tilewise.targets import Targets

_Parsed = tuple[Targets[Array], tuple[int, int] | None]


@dataclass(frozen=True)
class _Line:
    """A line of a manifest.

    Attributes:
        number: counted from 1.
        image: its ``source-ref``.
        labels: what each label attribute says, or what is wrong with it.
        names: class id -> name, for each label attribute.
        failures: what each ``…-metadata`` gives as the reason why there is no label.
        fault: why the whole line cannot be used.

    """

    number: int
    image: str
    labels: Mapping[str, _Parsed | str]
    names: Mapping[str, Mapping[int, str]]
    failures: Mapping[str, str]
    fault: str = ""


def find_manifest(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds an augmented manifest: in its annotation channel, or beside its images."""
    file = find_json_lines(source.annotations, MANIFEST)
    if file is None:
        return None
    return DetectedFormat(MANIFEST, file.name, partial(read_manifest, file, source.images, source.name))


def read_manifest(file: Path, folder: Folder, channel: str) -> ParsedChannel:
    """Read a manifest.

    Args:
        file: the manifest.
        folder: where its images are looked for before they are fetched from S3.
        channel: whose it is, for messages.

    Returns:
        Classes by name in the order of their ids where every id in use has a name, otherwise mere numbers;
        lines without a label among the examples, as problems.

    Raises:
        UserError: it has no label attribute or several, names classes in two ways, names an image twice, or
            needs images from S3 which nobody can fetch.

    """
    who = f"channel {channel}: {file.name}"
    lines = [_read_line(number, content, file.name) for number, content in read_json_lines(file)]
    attribute = _label_attribute(lines, who)
    names = _class_names(lines, attribute, who)
    paths = _find_images(lines, attribute, folder, who)
    examples = [_example(line, attribute, file.name, paths) for line in lines]
    two_for_one_image(examples)
    return _with_classes(ParsedChannel(examples, names=names))


def _read_line(number: int, content: dict[str, Any] | str, file: str) -> _Line:
    if isinstance(content, str):
        return _Line(number, "", {}, {}, {}, content)
    image = content.get("source-ref")
    if image is None and "source" in content and number == 1:
        raise UserError(
            f"{file} line 1 holds its image itself (source): write the images to files and name them with "
            "source-ref"
        )
    if not isinstance(image, str) or not image:
        return _Line(number, "", {}, {}, {}, "the line has no source-ref, or not a text")
    if image.lower().endswith((".json", ".jsonl")):
        raise UserError(
            f"{file} line {number} is of a video: its source-ref {image} names a sequence of frames; give a "
            "manifest with one image in each line"
        )
    labels = {
        key: _parse(value)
        for key, value in content.items()
        if isinstance(value, dict) and "annotations" in value
    }
    metadata = {key: content.get(f"{key}-metadata") for key in labels}
    failures = {
        key.removesuffix("-metadata"): str(value["failure-reason"])
        for key, value in content.items()
        if isinstance(value, dict) and "failure-reason" in value
    }
    return _Line(number, image, labels, {key: class_map(metadata[key]) for key in labels}, failures)


def _parse(label: dict[str, Any]) -> _Parsed | str:
    try:
        return parse_label(label)
    except ValueError as error:
        return str(error)


def _label_attribute(lines: Iterable[_Line], who: str) -> str:
    """The only one, or the only one that every line has."""
    good = [line for line in lines if not line.fault]
    counts = Counter(attribute for line in good for attribute in line.labels)
    if not counts and good:
        raise UserError(
            f"{who} has no label attribute, an object with a list of annotations, in any of its lines: give "
            "the output of a bounding box job"
        )
    everywhere = [attribute for attribute, count in counts.items() if count == len(good)]
    choice = everywhere if len(everywhere) == 1 else list(counts)
    if len(choice) > 1:
        raise UserError(
            f"{who} has several label attributes ({', '.join(sorted(choice))}): keep the one to train on"
        )
    return choice[0] if choice else ""


def _class_names(lines: Iterable[_Line], attribute: str, who: str) -> dict[int, str]:
    names: dict[int, tuple[str, int]] = {}
    ids: dict[str, tuple[int, int]] = {}
    for line in lines:
        for number, name in line.names.get(attribute, {}).items():
            first, where = names.setdefault(number, (name, line.number))
            if first != name:
                raise UserError(
                    f"{who}: class id {number} is {first} in line {where}, but {name} in line {line.number}: "
                    "make the class-map of all lines agree"
                )
            other, where = ids.setdefault(name, (number, line.number))
            if other != number:
                raise UserError(
                    f"{who}: {name} is class id {other} in line {where}, but {number} in line {line.number}: "
                    "make the class-map of all lines agree"
                )
    return {number: name for number, (name, _) in sorted(names.items())}


def _find_images(lines: Iterable[_Line], attribute: str, folder: Folder, who: str) -> dict[str, Path | str]:
    """For each ``source-ref`` of a usable line the image's file, or the reason why there is none."""
    addresses = dict.fromkeys(line.image for line in lines if not isinstance(_label(line, attribute), str))
    alike = Counter(path_in(image).rsplit("/", 1)[-1] for image in addresses)
    image_paths: dict[str, Path | str] = {}
    for image in addresses:
        name = path_in(image)
        base = name.rsplit("/", 1)[-1]
        # From another folder only where no other line may mean the same file.
        its = folder.find_image(name) or (folder.find_image_called(base) if alike[base] == 1 else None)
        if its is not None:
            image_paths[image] = folder.images[its]
        elif not is_s3(image):
            image_paths[image] = f"its image {image} is not in the channel, or not only once, nor in S3"
    return image_paths | fetch_images([image for image in addresses if image not in image_paths], who)


def _label(line: _Line, attribute: str) -> _Parsed | str:
    if line.fault:
        return line.fault
    label = line.labels.get(attribute)
    if label is None:
        reason = line.failures.get(attribute)
        return f"it has no label {attribute}" + (f": {reason}" if reason else "")
    return f"its label {attribute}: {label}" if isinstance(label, str) else label


def _example(line: _Line, attribute: str, file: str, paths: Mapping[str, Path | str]) -> RawExample:
    where = f"{file} line {line.number}"
    key = f"{path_in(line.image)} ({where})" if line.image else where
    label = _label(line, attribute)
    if isinstance(label, str):
        return unusable(key, None, label)
    path = paths[line.image]
    if isinstance(path, str):
        return unusable(key, None, path)
    targets, size = label
    return RawExample(key, path, size, targets)


def _with_classes(numbered: ParsedChannel) -> ParsedChannel:
    """Classes by name where every id in use has one."""
    ids = tuple(numbered.names)
    if not ids or not numbered.used <= set(ids):
        return numbered
    table = np.asarray(ids, np.int64)
    examples = [
        example.with_labels(np.searchsorted(table, example.targets.labels).astype(np.int64))
        for example in numbered.examples
    ]
    return ParsedChannel(examples, tuple(numbered.names.values()), ids=ids)
