"""An augmented manifest as a file, with its images beside it or in S3.

Specification: the developer guide's "Object Detection", section "Train with Augmented Manifest Image Format",
and Ground Truth's "Bounding box job output".
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    require_different_images,
    unusable,
)
from tilewise.data.files.folder import Folder
from tilewise.data.files.json_lines import MANIFEST, find_json_lines, path_in, read_json_lines, say_joined
from tilewise.data.files.s3 import fetch_images, is_s3
from tilewise.data.ground_truth import Label, class_map, parse_label
from tilewise.data.label_numbers import ImageLabels
from tilewise.data.quoting import quoted, shortened, some
from tilewise.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Line:
    """A line of a manifest.

    Attributes:
        where: its file and number.
        image: its ``source-ref``.
        labels: what each label attribute says, or what is wrong with it.
        names: class id -> name, for each label attribute.
        failures: what each ``…-metadata`` gives as the reason why there is no label.
        adjusted: the label attributes that a job wrote which corrects those of another one.
        fault: why the whole line cannot be used.

    """

    where: str
    image: str
    labels: Mapping[str, Label | str]
    names: Mapping[str, Mapping[int, str]]
    failures: Mapping[str, str]
    adjusted: frozenset[str] = frozenset()
    fault: str = ""


def find_manifest(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds an augmented manifest: in its annotation channel, or beside its images."""
    files = find_json_lines(source.annotations, MANIFEST)
    if not files:
        return None
    labels = ImageLabels(source.several_labels, source.class_ids) if source.image_labels else None
    read = partial(
        read_manifest, files, source.images, source.name, attribute=source.label_attribute, labels=labels
    )
    empty_image = "" if labels else "a line with an empty list of annotations"
    return DetectedFormat(MANIFEST, some(files), read, empty_image)


def read_manifest(
    files: Mapping[str, Path],
    folder: Folder,
    channel: str,
    *,
    attribute: str | None = None,
    labels: ImageLabels | None = None,
) -> ParsedChannel:
    """Read a manifest, or several as if they were one.

    Args:
        files: the manifests by name.
        folder: where their images are looked for before they are fetched from S3.
        channel: whose they are, for messages.
        attribute: the label attribute to train on, where the job says which.
        labels: how images are labelled; None for objects.

    Returns:
        Classes by name in the order of their ids where every id in use has a name, otherwise mere numbers;
        lines without a label among the examples, as problems.

    Raises:
        UserError: it has no label attribute or several, names classes in two ways, names an image twice, or
            needs images from S3 which nobody can fetch.

    """
    who = f"channel {channel}: {some(files)}"
    lines = _read_labelled(files, labels)
    attribute = _label_attribute(lines, attribute, who, objects=labels is None)
    if attribute:
        log.info("%s: the label attribute is %s", who, attribute)
    names = _class_names(lines, attribute, who)
    paths = _find_images(lines, attribute, folder, who)
    examples = [_example(line, attribute, paths, folder, fractions=labels is not None) for line in lines]
    require_different_images(examples)
    rows = labels.classes(who) if labels else None
    return ParsedChannel(examples, rows) if rows else _with_classes(ParsedChannel(examples, names=names))


def _read_labelled(files: Mapping[str, Path], kind: ImageLabels | None) -> list[_Line]:
    """The lines of all files but those without any label, beside others: the input of a labelling job."""
    lines_by_file = {
        name: [_read_line(where, content, kind) for where, content in read_json_lines({name: path})]
        for name, path in files.items()
    }
    labelled = {
        name: lines
        for name, lines in lines_by_file.items()
        if any(line.labels or line.failures or line.fault for line in lines)
    }
    for name in lines_by_file.keys() - labelled.keys() if labelled else ():
        log.info("%s has no labels, as the input of a labelling job has none, and is left aside", name)
    labelled = labelled or lines_by_file
    say_joined(labelled)
    return list(chain.from_iterable(labelled.values()))


def _read_line(where: str, content: dict[str, Any] | str, kind: ImageLabels | None) -> _Line:
    if isinstance(content, str):
        return _broken(where, content)
    image = content.get("source-ref")
    if image is None and "source" in content:
        held = shortened(str(content["source"]))
        return _broken(
            where,
            f"it holds its image itself (source: {held}): write it to a file and name it with source-ref",
        )
    if not isinstance(image, str) or not image:
        return _broken(where, f"its source-ref is {quoted(image)}, not the address of an image")
    if image.startswith("data:"):
        return _broken(where, f"its source-ref holds the image itself ({shortened(image)}): give a file")
    if image.lower().endswith((".json", ".jsonl")):
        raise UserError(
            f"{where} is of a video: its source-ref {shortened(image)} names a sequence of frames; give a "
            "manifest with one image in each line"
        )
    metadata = {
        key.removesuffix("-metadata"): value
        for key, value in content.items()
        if key.endswith("-metadata") and isinstance(value, dict)
    }
    found = {key: value for key, value in content.items() if _is_label(key, value, metadata, kind)}
    names = {
        key: kind.names(value, metadata.get(key)) if kind else class_map(metadata.get(key))
        for key, value in found.items()
    }
    return _Line(
        where,
        image,
        {key: _parse(value, names[key], kind) for key, value in found.items()},
        names,
        {
            key: shortened(str(value["failure-reason"]))
            for key, value in metadata.items()
            if "failure-reason" in value
        },
        frozenset(key for key, value in metadata.items() if "adjustment-status" in value),
    )


def _broken(where: str, fault: str) -> _Line:
    return _Line(where, "", {}, {}, {}, fault=fault)


def _is_label(key: str, value: Any, metadata: Mapping[str, Any], kind: ImageLabels | None) -> bool:
    """Whether an attribute may be the label: beside others with metadata none without."""
    if kind is None:
        return isinstance(value, dict) and "annotations" in value
    return key != "source-ref" and kind.may_be(value) and (key in metadata or not metadata)


def _parse(label: Any, names: Mapping[int, str], kind: ImageLabels | None) -> Label | str:
    try:
        return Label(kind.of_json(label, names), None) if kind else parse_label(label)
    except ValueError as error:
        return str(error)


def _label_attribute(lines: Iterable[_Line], wanted: str | None, who: str, *, objects: bool) -> str:
    """The label attribute to train on.

    The one that the job names; else the only one, the only one that corrects another, or the only one that
    nearly all lines have. A line whose labelling failed has the attribute that it failed for.
    """
    good = [line for line in lines if not line.fault]
    labelled = Counter(attribute for line in good for attribute in line.labels)
    if not labelled and good:
        form = "an object with a list of annotations" if objects else "a class or a list of classes"
        job = "a bounding box job" if objects else "an image classification job"
        raise UserError(
            f"{who} has no label attribute, {form}, in any of its lines: give the output of {job}"
        )
    if wanted is not None:
        if wanted not in labelled:
            raise UserError(
                f"{who} has no label attribute {wanted}: label_attribute must be one of {some(labelled, 10)}"
            )
        return wanted
    if len(labelled) < 2:
        return next(iter(labelled), "")
    adjusted = sorted({attribute for line in good for attribute in line.adjusted} & set(labelled))
    choice = adjusted if len(adjusted) == 1 else _of_nearly_all(good, labelled)
    if len(choice) != 1:
        raise UserError(
            f"{who} has several label attributes ({', '.join(sorted(labelled))}): say which to train on with "
            "the hyperparameter label_attribute, or keep one"
        )
    others = ", ".join(sorted(set(labelled) - set(choice)))
    why = "corrects another one" if choice == adjusted else "is the only one that all lines have"
    log.warning("%s: %s is trained on, since it %s; %s is not used", who, choice[0], why, others)
    return choice[0]


def _of_nearly_all(lines: Sequence[_Line], labelled: Iterable[str]) -> list[str]:
    """The only label attribute that all lines have, if each of the others is in less than half of them."""
    had = Counter(attribute for line in lines for attribute in {*line.labels, *line.failures})
    everywhere = [attribute for attribute in labelled if had[attribute] == len(lines)]
    rare = all(had[attribute] < len(lines) / 2 for attribute in labelled if attribute not in everywhere)
    return everywhere if rare else []


def _class_names(lines: Iterable[_Line], attribute: str, who: str) -> dict[int, str]:
    names: dict[int, tuple[str, str]] = {}
    ids: dict[str, tuple[int, str]] = {}
    for line in lines:
        for number, name in line.names.get(attribute, {}).items():
            first, where = names.setdefault(number, (name, line.where))
            if first != name:
                raise UserError(
                    f"{who}: class id {number} is {first} in {where}, but {name} in {line.where}: "
                    "make the class-map of all lines agree"
                )
            other, where = ids.setdefault(name, (number, line.where))
            if other != number:
                raise UserError(
                    f"{who}: {name} is class id {other} in {where}, but {number} in {line.where}: "
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
        its = folder.find_image(name) or (folder.find_image_called(name) if alike[base] == 1 else None)
        if its is not None:
            image_paths[image] = folder.files[its]
        elif not is_s3(image):
            problem = f"its image {shortened(image)} is not in the channel, or not only once, nor in S3"
            image_paths[image] = problem
    return image_paths | fetch_images([image for image in addresses if image not in image_paths], who)


def _label(line: _Line, attribute: str) -> Label | str:
    if line.fault:
        return line.fault
    label = line.labels.get(attribute)
    if label is None:
        reason = line.failures.get(attribute)
        return f"it has no label {attribute}" + (f": {reason}" if reason else "")
    return f"its label {attribute}: {label}" if isinstance(label, str) else label


def _example(
    line: _Line, attribute: str, paths: Mapping[str, Path | str], folder: Folder, *, fractions: bool
) -> RawExample:
    key = f"{shortened(path_in(line.image))} ({line.where})" if line.image else line.where
    label = _label(line, attribute)
    if isinstance(label, str):
        found = folder.find_image(path_in(line.image)) if line.image else None
        return unusable(key, folder.files[found] if found else None, label)
    path = paths[line.image]
    if isinstance(path, str):
        return unusable(key, None, path)
    return RawExample(key, path, label.size, label.targets, fractions=fractions, unread=label.unread)


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
