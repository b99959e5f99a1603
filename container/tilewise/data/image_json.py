"""Images with one JSON file each, as SageMaker's built-in Object Detection takes them.

Specification: the developer guide's "Object Detection", section "Train with the Image Format".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tilewise.data.annotations import Example, ImageFinder, boxes_from_corner_and_size
from tilewise.errors import UserError


@dataclass(frozen=True)
class ImageJson:
    """What a pair of image and annotation channels holds.

    Attributes:
        examples: one an image; images without a JSON file among them, as problems.
        names: class id -> name, from the ``categories`` of the files where they agree with one another.
        largest_id: the largest class id that occurs, -1 where there is no object.

    """

    examples: list[Example]
    names: Mapping[int, str]
    largest_id: int


def read_image_json(images: Path, annotations: Path, channel: str) -> ImageJson:
    """Read an image channel and its annotation channel.

    Args:
        images: the folder of the image channel.
        annotations: the folder of the annotation channel.
        channel: the annotation channel's name, for messages.

    Raises:
        UserError: there is no JSON file in the annotation channel.

    """
    files = sorted(path for path in annotations.rglob("*") if path.suffix.lower() == ".json" and path.is_file())
    if not files:
        raise UserError(f"channel {channel} holds no .json file: put one annotation file for each image there")
    finder = ImageFinder(images)
    names: dict[int, set[str]] = {}
    examples = [_read(path, path.relative_to(annotations).as_posix(), finder, names) for path in files]
    examples += _twice_or_never(examples, finder)
    largest = max((int(example.labels.max()) for example in examples if len(example.labels)), default=-1)
    agreed = {number: next(iter(given)) for number, given in names.items() if len(given) == 1}
    return ImageJson(examples, agreed, largest)


def _twice_or_never(examples: list[Example], finder: ImageFinder) -> list[Example]:
    """Problems for images that no JSON file names; an image named by two files raises."""
    named: dict[Path, str] = {}
    for example in examples:
        if example.path is None:
            continue
        if example.path in named:
            raise UserError(
                f"{named[example.path]} and {example.key} annotate the same image {example.path.name}: keep one"
            )
        named[example.path] = example.key
    hint = "no JSON file annotates it; an image without objects needs one with an empty list of annotations"
    return [_problem(name, hint) for name, path in finder.files.items() if path not in named]


def _problem(key: str, reason: str) -> Example:
    return Example(
        key, None, None, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_), reason
    )


def _read(path: Path, key: str, finder: ImageFinder, names: dict[int, set[str]]) -> Example:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return _problem(key, f"not valid JSON: {error}")
    try:
        image = _find_image(content, key, finder)
        size = _size(content)
        rows, labels = _objects(content)
        for category in content.get("categories") or []:
            names.setdefault(int(category["class_id"]), set()).add(str(category["name"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        return _problem(key, f"not an annotation file of the built-in's form: {what}")
    if image is None:
        return _problem(key, f"its image {content.get('file')!r} is not in the image channel")
    return Example(
        key=key,
        path=finder.files[image],
        size=size,
        boxes=boxes_from_corner_and_size(rows),
        labels=np.asarray(labels, dtype=np.int64),
        ignored=np.zeros(len(labels), dtype=np.bool_),
    )


def _find_image(content: dict[str, Any], key: str, finder: ImageFinder) -> str | None:
    """By ``file``, or where it is not given by the annotation's own base name."""
    if content.get("file"):
        return finder.find(str(content["file"]))
    stem = PurePosixPath(key).with_suffix("").as_posix()
    same = [name for name in finder.files if PurePosixPath(name).with_suffix("").as_posix() == stem]
    return same[0] if len(same) == 1 else None


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    sizes = content.get("image_size")
    if not sizes:
        return None
    first = sizes[0] if isinstance(sizes, list) else sizes
    return int(first["width"]), int(first["height"])


def _objects(content: dict[str, Any]) -> tuple[list[list[float]], list[int]]:
    rows, labels = [], []
    for annotation in content["annotations"]:
        rows.append([float(annotation[side]) for side in ("left", "top", "width", "height")])
        number = int(annotation["class_id"])
        if number < 0:
            raise ValueError(f"class_id {number} is negative")
        labels.append(number)
    return rows, labels
