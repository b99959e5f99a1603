"""Images and files of the VGG Image Annotator (VIA), versions 1 and 2: JSON, CSV or a project.

Specification: the annotator's user guide, section "Export", and its function ``pack_via_metadata``.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    by_name,
    require_different_images,
    unusable,
)
from tilewise.data.files.addresses import find_addressed
from tilewise.data.files.exports import VIA, files_of
from tilewise.data.files.folder import Folder
from tilewise.data.files.text_files import open_text, read_text
from tilewise.data.outlines import (
    ONLY_CLASS,
    ClassNumbers,
    DrawnObject,
    OutlineCounts,
    box_around_ellipse,
    box_around_line,
    box_around_outline,
    drawn_example,
    name_of_class,
    number_at,
)
from tilewise.data.quoting import quoted, shortened, some
from tilewise.errors import UserError
from tilewise.fields import Corners

log = logging.getLogger(__name__)

NAMES = ("class", "label", "category", "type", "name", "object")
"""Of several attributes of the regions the one of these names is the class, the first before the others."""

MAX_FIELD = 1 << 30
"""A polygon is one field of a CSV file; Python's limit is 128 KB."""

_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
_WITHOUT_AREA = ("point", "line")


class _ViaEntry(msgspec.Struct, gc=False):
    filename: Any = None
    regions: Any = None


class _ViaRegion(msgspec.Struct, gc=False):
    shape_attributes: Any = None
    region_attributes: Any = None


@dataclass
class _ViaImage:
    """An image of a file: its name there and its regions, or what is wrong with them."""

    name: str
    where: str
    regions: list[_ViaRegion] = field(default_factory=list)
    problem: str = ""


def find_via(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds the annotator's JSON, CSV or project files, or several of them."""
    files = files_of(source.annotations, VIA, ".json") | files_of(source.annotations, VIA, ".csv")
    if not files:
        return None
    read = partial(read_via, files, source.images, source.name)
    return DetectedFormat(VIA, some(files), read, empty_image="an entry without regions")


def read_via(files: Mapping[str, Path], folder: Folder, channel: str) -> ParsedChannel:
    """Read them all; classes are the values of one attribute of the regions, in alphabetical order.

    Of circles, ellipses and polygons the boxes around them are taken.

    Args:
        files: the annotator's, by their names.
        folder: holds the images.
        channel: whose they are, for messages.

    Raises:
        UserError: a file is not the annotator's, no attribute or several may be the class, or an image is
            annotated twice.

    """
    # Twice through the files: all of their regions as objects would take a gigabyte for a million.
    who = f"channel {channel}: {some(files)}"
    attribute = _class_attribute(_read_all(files), who)
    numbers, counts = ClassNumbers(), OutlineCounts()
    examples = [_example(image, attribute, folder, numbers, counts) for image in _read_all(files)]
    require_different_images(examples)
    if numbers and not attribute:
        log.warning("%s: its regions have no attributes: they are all of one class, %s", who, ONLY_CLASS)
    if unused := sorted(_options(files.values(), attribute) - numbers.keys()):
        log.info(
            "%s: options of the attribute %r that no region has: %s (classes are what regions have)",
            who,
            attribute,
            some(unused),
        )
    counts.tell(channel)
    return by_name(examples, list(numbers))


def _read_all(files: Mapping[str, Path]) -> Iterator[_ViaImage]:
    for name, path in files.items():
        try:
            yield from _rows(name, path) if path.suffix.lower() == ".csv" else _entries(name, path)
        except (msgspec.MsgspecError, csv.Error, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"{name} is not a file of the VGG Image Annotator: {error}") from None


def _entries(name: str, path: Path) -> Iterator[_ViaImage]:
    """Of annotations as JSON, or of a project's file."""
    content = msgspec.json.decode(read_text(path), type=dict[str, msgspec.Raw])
    if "_via_img_metadata" in content:
        content = msgspec.json.decode(content["_via_img_metadata"], type=dict[str, msgspec.Raw])
    for key, text in content.items():
        entry = msgspec.json.decode(text, type=_ViaEntry)
        image = _ViaImage(
            entry.filename if isinstance(entry.filename, str) else "", f"{name} {shortened(key)}"
        )
        regions = entry.regions or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions  # version 1 numbers them
        try:
            image.regions = msgspec.convert(regions, type=list[_ViaRegion])
        except msgspec.ValidationError as error:
            image.problem = f"its regions are {quoted(regions)}: {error}"
        yield image


def _rows(name: str, path: Path) -> Iterator[_ViaImage]:
    """Of annotations as CSV: a row is a region, or an image without any."""
    csv.field_size_limit(MAX_FIELD)
    rows_of: dict[str, list[tuple[int, list[str]]]] = {}
    with open_text(path) as file:
        rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
        header = [column.lstrip("#").strip() for column in next(rows, [])]
        if missing := [column for column in _COLUMNS if column not in header]:
            raise UserError(f"{name} has no column {missing[0]} in its first line: export it again")
        places = [header.index(column) for column in _COLUMNS]
        for row in filter(None, rows):
            values = [row[place] for place in places] if len(row) >= len(header) else row
            rows_of.setdefault(row[places[0]] if len(row) > places[0] else "", []).append(
                (rows.line_num, values)
            )
    for key, those in rows_of.items():
        image = _ViaImage(key, f"{name} line {those[0][0]}")
        for number, values in those:
            try:
                if len(values) != len(_COLUMNS):
                    raise ValueError(f"it has {len(values)} of {len(header)} columns")
                region = _ViaRegion(json.loads(values[1]), json.loads(values[2]))
            except (ValueError, RecursionError) as error:
                image.problem = f"line {number}: {error}"
            else:
                image.regions += [region] if region.shape_attributes else []
        yield image


def _class_attribute(images: Iterable[_ViaImage], who: str) -> str:
    """The attribute that names classes; "" where no region has any."""
    counts: Counter[str] = Counter()
    first = ""
    for image in images:
        for one in image.regions:
            attributes = one.region_attributes if isinstance(one.region_attributes, dict) else {}
            first = first or next(iter(attributes), "")
            counts.update(key for key, value in attributes.items() if value not in ("", None))
    if first and not counts:
        raise UserError(f"{who}: the attribute {first!r} of its regions has no value: name their classes")
    if len(counts) < 2:
        return str(next(iter(counts), ""))
    known = {key.strip().lower(): key for key in counts}
    chosen: str | None = next((known[name] for name in NAMES if name in known), None)
    if chosen is None:
        raise UserError(
            f"{who}: its regions have the attributes {', '.join(map(repr, counts))}, and none is called "
            f"{', '.join(NAMES[:-1])} or {NAMES[-1]}: rename the one that is the class"
        )
    log.info("%s: the attribute %r is the class (there are %s)", who, chosen, ", ".join(map(repr, counts)))
    return chosen


def _options(paths: Iterable[Path], attribute: str) -> set[str]:
    """What projects offer as values of an attribute of their regions."""
    found: set[str] = set()
    for path in paths:
        if path.suffix.lower() == ".csv":
            continue
        content = msgspec.json.decode(read_text(path), type=dict[str, msgspec.Raw])
        part = msgspec.json.decode(content.get("_via_attributes", b"{}"))
        for key in ("region", attribute, "options"):
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict):
            found.update(name.strip() for name in part if name.strip())
    return found


def _example(
    image: _ViaImage, attribute: str, folder: Folder, numbers: ClassNumbers, counts: OutlineCounts
) -> RawExample:
    key = f"{shortened(image.name)} ({image.where})" if image.name else image.where
    path = find_addressed(folder, image.name) if image.name else None
    if image.problem or not image.name:
        return unusable(key, path, image.problem or "it has no filename")
    if path is None:
        return unusable(
            key, None, f"its image {shortened(image.name)} is not in the channel, or not only once"
        )
    objects, unread = [], []
    for index, region in enumerate(image.regions):
        try:
            objects.append(DrawnObject(_class_of(region, attribute), _box(region.shape_attributes, counts)))
        except ValueError as error:
            unread.append(f"regions[{index}]: {error}")
    return drawn_example(key, path, None, objects=objects, numbers=numbers, unread=unread)


def _class_of(region: _ViaRegion, attribute: str) -> str:
    if not attribute:
        return ONLY_CLASS
    attributes = region.region_attributes if isinstance(region.region_attributes, dict) else {}
    value = attributes.get(attribute)
    if isinstance(value, dict):  # of check boxes
        ticked = [name for name, is_ticked in value.items() if is_ticked]
        if len(ticked) != 1:
            raise ValueError(f"its {attribute} is {quoted(ticked)}: an object is of one class")
        value = ticked[0]
    return name_of_class(value, attribute)


def _box(shape: Any, counts: OutlineCounts) -> Corners:
    if not isinstance(shape, dict):
        raise ValueError(f"its shape_attributes are {quoted(shape)}, not an object")
    kind = shape.get("name")
    if kind == "rect":
        x, y = number_at(shape, "x"), number_at(shape, "y")
        return x, y, x + number_at(shape, "width"), y + number_at(shape, "height")
    if kind == "polygon":
        counts["polygons"] += 1
        return box_around_outline(list(zip(*_points(shape), strict=True)), "polygon")
    if kind == "polyline":
        box = box_around_line(list(zip(*_points(shape), strict=True)), kind)
        counts["closed lines"] += 1
        return box
    if kind in ("circle", "ellipse"):
        counts[f"{kind}s"] += 1
        centre = number_at(shape, "cx"), number_at(shape, "cy")
        radii = (number_at(shape, "r"),) * 2 if kind == "circle" else _radii(shape)
        return box_around_ellipse(centre, radii, math.degrees(number_at(shape, "theta", 0)))
    if kind in _WITHOUT_AREA:
        raise ValueError(f"it is a {kind}, which has no area: draw a box or a polygon, or delete it")
    raise ValueError(f"its shape is {quoted(kind)}, not a rect, polygon, circle or ellipse")


def _radii(shape: Mapping[str, Any]) -> tuple[float, float]:
    return number_at(shape, "rx"), number_at(shape, "ry")


def _points(shape: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    x, y = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        raise ValueError(
            f"its all_points_x and all_points_y are {quoted(x)} and {quoted(y)}, not two lists of a length"
        )
    return x, y
