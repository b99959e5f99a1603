"""JSON lines as Azure AutoML takes them for object detection and instance segmentation.

Specification: Azure Machine Learning, "Data schemas to train computer vision models with automated machine
learning", sections "Object detection" and "Instance segmentation".
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    boxes_from_corners,
    by_name,
    check_fractions,
    two_for_one_image,
    unusable,
)
from tilewise.data.folder import Folder
from tilewise.data.json_lines import AZURE, find_json_lines, path_in, read_json_lines
from tilewise.targets import Targets

_CORNERS = ("topX", "topY", "bottomX", "bottomY")
_PIXELS = re.compile(r"\s*(\d{1,9})(?:\.0*)?\s*(?:px)?\s*")
_FALSE = ("", "0", "false", "no", "none")


def find_azure_jsonl(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds Azure's JSON lines: in its annotation channel, or beside its images."""
    file = find_json_lines(source.annotations, AZURE)
    return DetectedFormat(AZURE, file.name, partial(read_azure_jsonl, file, source.images)) if file else None


def read_azure_jsonl(file: Path, folder: Folder) -> ParsedChannel:
    """Read a file of such lines; classes are the labels' names in alphabetical order.

    Images are looked for in the folder by the path in their ``image_url``, which is never fetched. Crowds are
    kept as ignored boxes; of polygons the boxes around them are taken.

    Raises:
        UserError: two lines have the same image.

    """
    numbers: dict[str, int] = {}
    examples = [
        _example(f"{file.name} line {number}", content, folder, numbers)
        for number, content in read_json_lines(file)
    ]
    two_for_one_image(examples)
    return by_name(examples, list(numbers))


def _example(
    where: str, content: dict[str, Any] | str, folder: Folder, numbers: dict[str, int]
) -> RawExample:
    """An example whose labels are the numbers that its names have by then."""
    if isinstance(content, str):
        return unusable(where, None, content)
    address = content.get("image_url")
    if not isinstance(address, str) or not address:
        return unusable(where, None, "the line has no image_url, or not a text")
    name = _path(address)
    key = f"{name} ({where})"
    image_name = folder.find_image(name) or folder.find_image(unquote(name))
    image_name = image_name or folder.find_image_called(name.rsplit("/", 1)[-1])
    if image_name is None:
        return unusable(key, None, f"its image {name} is not in the channel, or not only once")
    try:
        size = _size(content.get("image_details"))
        rows, names, crowds = _objects(content.get("label"))
        boxes = check_fractions(boxes_from_corners(rows))
    except ValueError as error:
        return unusable(key, folder.images[image_name], str(error))
    return RawExample(
        key=key,
        path=folder.images[image_name],
        size=size,
        targets=Targets(
            boxes,
            np.asarray([numbers.setdefault(name, len(numbers)) for name in names], np.int64),
            np.asarray(crowds, np.bool_),
        ),
        fractions=True,
    )


def _path(address: str) -> str:
    """Below its datastore: ``azureml://subscriptions/…/paths/a/b.jpg`` and ``AmlDatastore://a/b.jpg``."""
    if address.lower().startswith("amldatastore://"):
        return address.partition("://")[2]
    before, _, path = address.rpartition("/paths/")
    return path if before.lower().startswith("azureml:") else path_in(address)


def _size(details: Any) -> tuple[int, int] | None:
    """From ``{"width": "1500px", "height": 1000}``; both may be missing."""
    sides = [details.get(side) for side in ("width", "height")] if isinstance(details, dict) else [None]
    if any(side is None for side in sides):
        return None
    matches = [_PIXELS.fullmatch(str(side)) for side in sides]
    if not matches[0] or not matches[1]:
        raise ValueError(f'image_details has the sides {sides[0]} and {sides[1]}, not pixels such as "640px"')
    return int(matches[0][1]), int(matches[1][1])


def _objects(label: Any) -> tuple[list[list[float]], list[str], list[bool]]:
    if not isinstance(label, list):
        raise ValueError("label is not a list of boxes: give the lines of an object detection task")
    rows, names, crowds = [], [], []
    for index, item in enumerate(label):
        try:
            rows.append(_corners(item))
            names.append(_name(item["label"]))
            crowds.append(str(item.get("isCrowd")).strip().lower() not in _FALSE)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"label[{index}]: {what}") from None
    return rows, names, crowds


def _corners(item: dict[str, Any]) -> list[float]:
    if "polygon" in item and "topX" not in item:
        points = np.asarray([float(number) for part in item["polygon"] for number in part])
        if len(points) < 6 or len(points) % 2:
            raise ValueError(f"a polygon of {len(points)} numbers")
        x, y = points[0::2], points[1::2]
        return [float(x.min()), float(y.min()), float(x.max()), float(y.max())]
    return [float(item[corner]) for corner in _CORNERS]


def _name(label: Any) -> str:
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"its label {label} is not a name")
    return label.strip()
