"""JSON lines as Azure AutoML takes them for its image tasks.

Specification: Azure Machine Learning, "Data schemas to train computer vision models with automated machine
learning".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tilewise.arrays import Array
from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    boxes_from_corners,
    by_name,
    check_fractions,
    require_different_images,
    unusable,
)
from tilewise.data.files.folder import Folder
from tilewise.data.files.json_lines import AZURE, find_json_lines, path_in, read_json_lines
from tilewise.data.image_labels import names_of, whole_image_targets
from tilewise.data.quoting import NoValue, as_number, quoted, shortened, some
from tilewise.masks import MASKS, Masks, Outline
from tilewise.targets import Targets

_CORNERS = ("topX", "topY", "bottomX", "bottomY")
_PIXELS = re.compile(r"\s*(\d{1,9})(?:\.0*)?\s*(?:px)?\s*")
_FALSE = ("", "0", "false", "no", "none")


def find_azure_jsonl(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds Azure's JSON lines: in its annotation channel, or beside its images."""
    files = find_json_lines(source.annotations, AZURE)
    return (
        DetectedFormat(
            AZURE,
            some(files),
            partial(
                read_azure_jsonl,
                files,
                source.images,
                masks=source.masks,
                names=partial(names_of, several=source.several_labels) if source.image_labels else None,
            ),
            "" if source.image_labels else "a line with an empty list as its label",
        )
        if files
        else None
    )


def read_azure_jsonl(
    files: Mapping[str, Path],
    folder: Folder,
    *,
    masks: bool = False,
    names: Callable[[Any], list[str]] | None = None,
) -> ParsedChannel:
    """Read files of such lines, as if they were one; classes are the labels' names in alphabetical order.

    Images are looked for in the folder by the path in their ``image_url``, which is never fetched. Crowds are
    kept as ignored boxes; of polygons the boxes around them are taken, and with ``masks`` themselves: a place
    inside of two segments of an object is outside of it, which is how Azure's tools write holes. Where
    ``names`` is given it has the classes of an image by its label, and there are no boxes.

    Raises:
        UserError: two lines have the same image.

    """
    numbers: dict[str, int] = {}
    examples = [
        _example(where, content, folder, numbers, masks=masks, names=names)
        for where, content in read_json_lines(files)
    ]
    require_different_images(examples)
    return by_name(examples, list(numbers))


def _example(
    where: str,
    content: dict[str, Any] | str,
    folder: Folder,
    numbers: dict[str, int],
    *,
    masks: bool,
    names: Callable[[Any], list[str]] | None,
) -> RawExample:
    """An example whose labels are the numbers that its names have by then."""
    if isinstance(content, str):
        return unusable(where, None, content)
    address = content.get("image_url")
    if not isinstance(address, str) or not address:
        return unusable(where, None, f"its image_url is {quoted(address)}, not the address of an image")
    if address.startswith("data:"):
        return unusable(
            where, None, f"its image_url holds the image itself ({shortened(address)}): give files"
        )
    name = _path(address)
    key = f"{shortened(name)} ({where})"
    image_name = folder.find_image(name) or folder.find_image_called(name)
    if image_name is None:
        problem = f"its image {shortened(name)} is not in the channel, or not only once"
        return unusable(key, None, problem)
    try:
        size = _size(content.get("image_details"))
        unread: tuple[str, ...] = ()
        if names:
            targets = whole_image_targets([_number(name, numbers) for name in names(content.get("label"))])
        else:
            targets, unread = _targets(content.get("label"), numbers, masks=masks)
    except ValueError as error:
        return unusable(key, folder.files[image_name], str(error))
    return RawExample(key, folder.files[image_name], size, targets, fractions=True, unread=unread)


def _targets(label: Any, numbers: dict[str, int], *, masks: bool) -> tuple[Targets[Array], tuple[str, ...]]:
    """The objects, and why others have no box."""
    objects, unread = _objects(label)
    targets: Targets[Array] = Targets(
        check_fractions(boxes_from_corners([each.corners for each in objects])),
        np.asarray([_number(each.name, numbers) for each in objects], np.int64),
        np.asarray([each.crowd for each in objects], np.bool_),
        {MASKS: Masks.of([each.outline for each in objects])} if masks else {},
    )
    return targets, unread


def _number(name: str, numbers: dict[str, int]) -> int:
    return numbers.setdefault(name, len(numbers))


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
        stated = " and ".join(map(quoted, sides))
        raise ValueError(f'image_details has the sides {stated}, not pixels such as "640px"')
    return int(matches[0][1]), int(matches[1][1])


class _Object(NamedTuple):
    corners: list[float]
    name: str
    crowd: bool
    outline: Outline | None


def _objects(label: Any) -> tuple[list[_Object], tuple[str, ...]]:
    if not isinstance(label, list):
        raise ValueError(
            f"label is {quoted(label)}, not a list of boxes: give the lines of an object detection task"
        )
    objects, unread = [], []
    for index, item in enumerate(label):
        try:
            if not isinstance(item, dict):
                raise ValueError(
                    f"it is {quoted(item)}, not an object with label, topX, topY, bottomX, bottomY"
                )
            outline = _outline(item)
            crowd = str(item.get("isCrowd")).strip().lower() not in _FALSE
            objects.append(_Object(_corners(item, outline), _name(item["label"]), crowd, outline))
        except NoValue as error:
            unread.append(f"label[{index}]: {error}")
        except KeyError as error:
            raise ValueError(f"label[{index}]: the key {error} is missing") from None
        except ValueError as error:
            raise ValueError(f"label[{index}]: {error}") from None
    return objects, tuple(unread)


def _outline(item: dict[str, Any]) -> Outline | None:
    """The object's polygon; None for a box."""
    if "polygon" not in item or ("topX" in item and not item["polygon"]):
        return None
    return Outline([np.asarray(segment) for segment in _segments(item["polygon"])], even_odd=True)


def _corners(item: dict[str, Any], outline: Outline | None) -> list[float]:
    if outline is not None and "topX" not in item:
        points = np.concatenate(outline.rings)
        return [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
    return [as_number(item[corner], f"its {corner} is") for corner in _CORNERS]


def _segments(polygon: Any) -> list[list[tuple[float, float]]]:
    """The points of each part of an outline.

    Azure's form is a list of segments, each a flat list ``x1, y1, x2, y2, …``; one segment alone, and points
    as pairs, cannot mean anything else and are read, too.
    """
    problem = f"its polygon is {quoted(polygon)}, not a list of segments [[x1, y1, x2, y2, x3, y3, …], …]"
    if not isinstance(polygon, list) or not polygon:
        raise ValueError(problem)
    if not any(isinstance(part, list) for part in polygon) or all(map(_is_pair, polygon)):
        polygon = [polygon]  # one segment
    segments = []
    for part in polygon:
        if not isinstance(part, list):
            raise ValueError(problem)
        flat = [value for pair in part for value in pair] if part and all(map(_is_pair, part)) else part
        if not all(isinstance(value, int | float | str) for value in flat):
            raise ValueError(problem)
        values = [as_number(value, "its polygon has") for value in flat]
        if len(values) < 6 or len(values) % 2:
            raise ValueError(
                f"its polygon has a segment of {len(values)} numbers, not x and y of 3 points or more"
            )
        segments.append(list(zip(values[0::2], values[1::2], strict=True)))
    return segments


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and not any(isinstance(each, list) for each in value)


def _name(label: Any) -> str:
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise ValueError(f"its label is {quoted(label)}, not a name")
    return str(label).strip()
