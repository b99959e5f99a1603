"""Images and Label Studio's exports, "JSON" and "JSON-MIN".

Specification: Label Studio's documentation, "Label Studio JSON format of annotated tasks"; its SDK's
``converter`` for what it leaves open.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tilewise.data.annotations import (
    MAX_FRACTION,
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    by_name,
    require_different_images,
    unusable,
)
from tilewise.data.files.addresses import find_addressed
from tilewise.data.files.exports import LABEL_STUDIO, files_of
from tilewise.data.files.folder import Folder
from tilewise.data.files.s3 import fetch_images, is_s3
from tilewise.data.files.text_files import open_text
from tilewise.data.outlines import (
    ClassNumbers,
    DrawnObject,
    OutlineCounts,
    box_around_ellipse,
    box_around_outline,
    box_around_rotated,
    drawn_example,
    known_size,
    name_of_class,
    number_at,
)
from tilewise.data.quoting import quoted, shortened, some
from tilewise.errors import UserError
from tilewise.fields import Corners

log = logging.getLogger(__name__)

CHUNK = 4 << 20
"""So many characters of a file are read at once."""

_BETWEEN = re.compile(r"[\s,]*")
_IMAGE_KEYS = ("image", "img", "image_url", "url", "photo", "picture")
_WITHOUT_AREA = {
    "keypoint": "a key point, which has no area: draw a box or a polygon, or delete it",
    "vector": "a vector, which has no area: draw a box or a polygon, or delete it",
    "brush": "a brush's mask, which is not supported: export the project as COCO with masks",
    "bitmask": "a bitmap mask, which is not supported: export the project as COCO with masks",
}
_KINDS = ("rectangle", "polygon", "ellipse", *_WITHOUT_AREA)
_GEOMETRY = ("x", "y", "width", "height", "rotation", "points", "radiusX", "radiusY", "rle", "imageDataURL")
_ABOUT_THE_IMAGE = {"original_width", "original_height", "image_rotation", "closed", "format"}
_Content = dict[str, Any]


class _StudioRegion(msgspec.Struct, gc=False):
    """A result of an annotation: a shape, a label of a shape, or something about the whole image."""

    id: Any = None
    type: Any = None
    value: Any = None
    original_width: Any = None
    original_height: Any = None
    image_rotation: Any = None
    item_index: Any = None


class _StudioAnnotation(msgspec.Struct, gc=False):
    result: list[_StudioRegion] = []
    was_cancelled: Any = None
    skipped: Any = None
    ground_truth: Any = None
    created_at: Any = None
    updated_at: Any = None


class _StudioTask(msgspec.Struct, gc=False):
    """A task, or a row of JSON-MIN, which has no ``data``."""

    data: Any = msgspec.UNSET
    id: Any = None
    updated_at: Any = None
    annotations: list[_StudioAnnotation] | None = None
    completions: list[_StudioAnnotation] | None = None


@dataclass
class _StudioAnswer:
    """One annotation of one image."""

    where: str
    data: _Content
    regions: list[_StudioRegion]
    order: tuple[bool, str] = (False, "")
    """Of several annotations of a task the largest counts: ground truth, then the latest."""


@dataclass
class _StudioCounts:
    """What the log says of a channel's tasks."""

    outlines: OutlineCounts = field(default_factory=OutlineCounts)
    tasks: int = 0
    unlabelled: int = 0
    several: int = 0


def find_label_studio(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds Label Studio's JSON, one file or several."""
    files = files_of(source.annotations, LABEL_STUDIO, ".json")
    if not files:
        return None
    read = partial(read_label_studio, files, source.images, source.name)
    return DetectedFormat(LABEL_STUDIO, some(files), read, empty_image="an annotation without regions")


def read_label_studio(files: Mapping[str, Path], folder: Folder, channel: str) -> ParsedChannel:
    """Read them all; classes are the labels in alphabetical order.

    Of polygons, ellipses and rotated boxes the upright boxes around them are taken. Of several annotations of
    a task the one marked as ground truth counts, or else the latest; cancelled ones, predictions and tasks
    that nobody has annotated do not.

    Args:
        files: Label Studio's, by their names.
        folder: where images are looked for before they are fetched, those in S3 only.
        channel: whose they are, for messages.

    Raises:
        UserError: a file is not Label Studio's, no task is annotated, an image is annotated twice, or images
            in S3 are needed that nobody can fetch.

    """
    numbers, counts = ClassNumbers(), _StudioCounts()
    examples: list[RawExample] = []
    missing: dict[int, str] = {}
    for name, file in files.items():
        for found in _annotations(name, file, counts):
            address, path = _find_image(found.data, folder)
            if path is None and is_s3(address):
                missing[len(examples)] = address
                path = Path(address)
            examples.append(_example(found, address, path, numbers, counts.outlines))
    who = f"channel {channel}: {some(files)}"
    if not examples:
        raise UserError(
            f"{who} holds {counts.tasks} tasks, but no annotation of one; predictions do not count: accept "
            "them in Label Studio, and export again"
        )
    _tell(counts, who)
    counts.outlines.tell(channel)
    _fetch(examples, missing, who)
    require_different_images(examples)
    return by_name(examples, list(numbers))


def _tell(counts: _StudioCounts, who: str) -> None:
    if counts.unlabelled:
        log.warning(
            "%s: %d of %d tasks have no annotation, or a cancelled one: their images are not used",
            who,
            counts.unlabelled,
            counts.tasks,
        )
    if counts.several:
        log.warning(
            "%s: %d tasks have several annotations: the one that is marked as ground truth counts, or the "
            "latest",
            who,
            counts.several,
        )


def _fetch(examples: list[RawExample], missing: Mapping[int, str], who: str) -> None:
    """Put the files of images in S3 into their examples."""
    fetched = fetch_images(list(dict.fromkeys(missing.values())), who)
    for index, address in missing.items():
        found, example = fetched[address], examples[index]
        if isinstance(found, str):
            examples[index] = unusable(example.key, None, found)
        else:
            examples[index] = replace(example, path=found)


def _annotations(name: str, path: Path, counts: _StudioCounts) -> Iterator[_StudioAnswer]:
    """The annotation of each task of a file that counts."""
    rows: dict[object, list[tuple[str, int, str, str]]] = {}
    where = f"{name} tasks[0]"
    try:
        for index, (content, text) in enumerate(_tasks(path)):
            where = f"{name} tasks[{index}]"  # until its id is known
            task = msgspec.convert(content, type=_StudioTask)
            if task.data is msgspec.UNSET:
                key = index if task.id is None else str(task.id)
                told = where if task.id is None else f"{name} task {shortened(str(task.id))}"
                rows.setdefault(key, []).append((str(task.updated_at or ""), index, text, told))
            elif found := _best(
                task, where if task.id is None else f"{name} task {shortened(str(task.id))}", counts
            ):
                yield found
            where = f"{name} tasks[{index + 1}]"
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON: {error.msg}") from None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise UserError(f"{where} is not Label Studio's JSON: {error}") from None
    yield from _answers_of_rows(rows, counts)


def _tasks(path: Path) -> Iterator[tuple[Any, str]]:
    """The tasks of a file and their texts, one by one: a million results at once would take gigabytes."""
    decode = json.JSONDecoder().raw_decode
    with open_text(path) as binary:
        file = io.TextIOWrapper(binary, encoding="utf-8")
        text = file.read(CHUNK).lstrip()
        if not text.startswith("["):
            text += file.read()
            yield json.loads(text), text
            return
        position, more = 1, CHUNK
        while True:
            position = _BETWEEN.match(text, position).end()  # type: ignore[union-attr]  # it matches anywhere
            if text.startswith("]", position):
                return
            try:
                content, end = decode(text, position)
            except json.JSONDecodeError:
                rest = file.read(more)
                if not rest:
                    raise
                # A task may be longer than what has been read: each time twice as much is.
                text, position, more = text[position:] + rest, 0, 2 * more
            else:
                yield content, text[position:end]
                position, more = end, CHUNK


def _answers_of_rows(
    rows: Mapping[object, list[tuple[str, int, str, str]]], counts: _StudioCounts
) -> Iterator[_StudioAnswer]:
    """The latest row of each task in JSON-MIN, which has a row for each annotation."""
    for those in rows.values():
        _, _, text, where = max(those, key=lambda row: row[:2])
        content = json.loads(text)
        found = _answer_of_row(content, where)
        is_labelled = bool(found.regions) or content.get("annotation_id", 0) is not None
        counts.tasks += 1
        counts.unlabelled += not is_labelled
        counts.several += len(those) > 1
        if is_labelled:
            yield found


def _best(task: _StudioTask, where: str, counts: _StudioCounts) -> _StudioAnswer | None:
    counts.tasks += 1
    data = task.data if isinstance(task.data, dict) else {}
    found = [
        _StudioAnswer(
            where, data, one.result, (bool(one.ground_truth), str(one.updated_at or one.created_at or ""))
        )
        for one in task.annotations or task.completions or []
        if not one.was_cancelled and not one.skipped
    ]
    counts.unlabelled += not found
    counts.several += len(found) > 1
    return max(found, key=lambda one: one.order) if found else None


def _answer_of_row(content: _Content, where: str) -> _StudioAnswer:
    """A row of JSON-MIN is one annotation: regions lie under the names of the tags that drew them."""
    regions = [
        _region_of(item)
        for value in content.values()
        if isinstance(value, list)
        for item in value
        if isinstance(item, dict) and set(_GEOMETRY) & set(item)
    ]
    return _StudioAnswer(where, content, [one for one in regions if one])


def _region_of(item: _Content) -> _StudioRegion | None:
    """A shape with its label, or a shape alone; None for another answer about a shape."""
    kind = next((key for key in item if key.endswith("labels")), None)
    if kind is None and not set(item) <= {*_GEOMETRY, *_ABOUT_THE_IMAGE}:
        return None
    place = repr([item.get(key) for key in _GEOMETRY])  # what lies at the same place is the same shape
    return _StudioRegion(place, kind, item, item.get("original_width"), item.get("original_height"))


def _find_image(data: _Content, folder: Folder) -> tuple[str, Path | None]:
    """The address of a task's image, "" for none, and the image in the channel."""
    keys = [*(key for key in _IMAGE_KEYS if key in data), *(key for key in data if key not in _IMAGE_KEYS)]
    texts = [data[key] for key in keys if isinstance(data[key], str) and data[key]]
    for text in texts:
        if path := find_addressed(folder, text):
            return text, path
    named = [text for text in texts if is_s3(text)]
    return next(iter([*named, *texts]), ""), None


def _example(
    found: _StudioAnswer, address: str, path: Path | None, numbers: ClassNumbers, counts: OutlineCounts
) -> RawExample:
    key = f"{shortened(address)} ({found.where})" if address else found.where
    if not address:
        return unusable(key, None, f"its data has no address of an image, but {quoted(found.data)}")
    if path is None:
        return unusable(key, None, f"its image {shortened(address)} is not in the channel, or not only once")
    try:
        shapes = _shapes(found.regions)
        sizes = {known_size(one.original_width, one.original_height) for one in found.regions} - {None}
        if len(sizes) > 1:
            raise ValueError(f"its regions are of images of several sizes, {quoted(sorted(sizes))}")
        size = next(iter(sizes), None)
    except ValueError as error:
        return unusable(key, path, str(error))
    objects, unread = [], []
    for shape in shapes:
        try:
            objects.append(_object(shape, size, counts))
        except ValueError as error:
            unread.append(str(error))
    return drawn_example(key, path, size, objects=objects, numbers=numbers, fractions=True, unread=unread)


@dataclass
class _StudioShape:
    """A shape on the image and the labels that it has, from one result or several of one id."""

    where: str
    kind: str = ""
    value: _Content = field(default_factory=dict)
    labels: list[Any] = field(default_factory=list)


def _shapes(regions: list[_StudioRegion]) -> list[_StudioShape]:
    shapes: dict[object, _StudioShape] = {}
    for index, region in enumerate(regions):
        where = f"region {index if region.id is None else shortened(str(region.id))}"
        kind, labels = _kind(region)
        if kind is None:
            continue
        if region.image_rotation:
            raise ValueError(
                f"{where}: the image was turned in Label Studio, which is not supported: turn the file"
            )
        if region.item_index:
            raise ValueError(
                f"{where}: the task shows several images, which is not supported: one image a task"
            )
        if kind not in _KINDS and kind != "":
            raise ValueError(f"{where} is of the type {quoted(region.type)}, which is no shape on an image")
        shape = shapes.setdefault(repr(region.id) if region.id is not None else index, _StudioShape(where))
        shape.labels += [label for label in labels if label not in shape.labels]
        if kind:
            shape.kind = kind
        shape.value |= region.value if isinstance(region.value, dict) else {}
    for shape in shapes.values():
        shape.kind = shape.kind or _kind_of(shape.value)
    return list(shapes.values())


def _kind(region: _StudioRegion) -> tuple[str | None, list[Any]]:
    """The kind of a region's shape, "" for a label alone, and None for what is no shape; and its labels."""
    value = region.value if isinstance(region.value, dict) else {}
    named = (
        region.type
        if isinstance(region.type, str)
        else next(iter(key for key in value if key.endswith("labels")), "")
    )
    kind = named.removesuffix("labels")
    if kind in _KINDS or named.endswith("labels") or named.startswith("video"):
        labels = value.get(named) or []
        return kind, labels if isinstance(labels, list) else [labels]
    if named:
        return None, []  # an answer about the image or a region: choices, text, ratings
    return _kind_of(value), []


def _kind_of(value: _Content) -> str:
    """By its geometry."""
    return "polygon" if "points" in value else "ellipse" if "radiusX" in value else "rectangle"


def _object(shape: _StudioShape, size: tuple[int, int] | None, counts: OutlineCounts) -> DrawnObject:
    try:
        if shape.kind in _WITHOUT_AREA:
            raise ValueError(f"it is {_WITHOUT_AREA[shape.kind]}")
        if len(shape.labels) != 1:
            raise ValueError(f"its labels are {quoted(shape.labels)}: an object is of one class")
        name, box = name_of_class(shape.labels[0]), _box(shape, size, counts)
        far = max(box, key=abs)
        if abs(far) > 100 * MAX_FRACTION:
            raise ValueError(f"it reaches to {far:g}, not a percentage of its image's width or height")
    except ValueError as error:
        raise ValueError(f"{shape.where}: {error}") from None
    x0, y0, x1, y1 = box
    return DrawnObject(name, (x0 / 100, y0 / 100, x1 / 100, y1 / 100))


def _box(shape: _StudioShape, size: tuple[int, int] | None, counts: OutlineCounts) -> Corners:
    """In percent of the image's sides."""
    value = shape.value
    if shape.kind == "polygon":
        counts["polygons"] += 1
        return box_around_outline(value.get("points"), "polygon")
    degrees = number_at(value, "rotation", 0)
    if degrees and size is None:
        raise ValueError("it is turned, and its image's original_width and original_height are missing")
    # What is turned is turned in pixels: a percent across is not as long as a percent down.
    width, height = size if degrees and size else (100, 100)
    x, y = number_at(value, "x") * width / 100, number_at(value, "y") * height / 100
    if shape.kind == "ellipse":
        counts["ellipses"] += 1
        radii = number_at(value, "radiusX") * width / 100, number_at(value, "radiusY") * height / 100
        box = box_around_ellipse((x, y), radii, degrees)
    else:
        across, down = number_at(value, "width") * width / 100, number_at(value, "height") * height / 100
        box = (x, y, x + across, y + down)
        if degrees:
            counts["rotated boxes"] += 1
            box = box_around_rotated(box, degrees, pivot=(x, y))
    x0, y0, x1, y1 = box
    return x0 / width * 100, y0 / height * 100, x1 / width * 100, y1 / height * 100
