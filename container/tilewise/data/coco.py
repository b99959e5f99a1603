"""Images and one COCO JSON file.

Specification: cocodataset.org, "Data format", section "Object Detection".
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tilewise.data.annotations import Annotated, Example, Found, Source, boxes_from_corner_and_size
from tilewise.data.folder import Folder
from tilewise.data.json_lines import format_of_lines
from tilewise.errors import UserError

MAX_CANDIDATES = 10
PEEK = 64 * 1024
_COCO_PLACE = re.compile(r"(annotations/)?[^/]*\.json", re.IGNORECASE)


def find_coco(source: Source) -> Found | None:
    """Whether a channel holds a COCO file: in its annotation channel, or beside its images."""
    file = find_coco_file(source.annotations)
    if file is None:
        return None
    return Found("COCO", file.name, lambda: read_coco(file, source.images))


def find_coco_file(folder: Folder) -> Path | None:
    """The COCO file in a folder or in its ``annotations/``, or None.

    Of many ``.json`` files only the largest few are looked into, and of each only its beginning and its end.

    Raises:
        UserError: there are several.

    """
    files = [path for name, path in folder.with_suffix(".json").items() if _COCO_PLACE.fullmatch(name)]
    files = sorted(files, key=lambda path: path.stat().st_size)[-MAX_CANDIDATES:]
    found = sorted(path.relative_to(folder.root).as_posix() for path in files if _looks_like_coco(path))
    if len(found) > 1:
        names = ", ".join(found)
        raise UserError(
            f"channel {folder.root.name} holds several COCO files ({names}): keep one in each channel"
        )
    return folder.root / found[0] if found else None


def _looks_like_coco(path: Path) -> bool:
    """By keys that an annotation file of one image does not have."""
    with path.open("rb") as file:
        content = file.read(PEEK)
        size = path.stat().st_size
        file.seek(max(PEEK, size - PEEK))
        content += file.read()
    # Of a large file the key "images" itself may stand in the middle.
    keys = rb"images" if size <= 2 * PEEK else rb"images|image_id|file_name"
    if not re.search(rb'"(?:' + keys + rb')"\s*:', content):
        return False
    return not format_of_lines(path)  # a manifest's lines may say more of their images, under such keys


def read_coco(file: Path, images: Folder) -> Annotated:
    """Read a COCO file; its images are looked for below ``images``.

    Crowds are kept as ignored boxes. Boxes are float pixels ``x, y, width, height`` from the top left.

    Raises:
        UserError: the file is not JSON, not COCO, or contradicts itself; the message names file and entry.

    """
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name} is not valid JSON: {error}") from None
    try:
        return _parse(content, images)
    except KeyError as error:
        raise UserError(f"{file.name} is not a COCO file: the key {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file.name} is not a COCO file: {error}") from None


def _parse(content: dict[str, Any], folder: Folder) -> Annotated:
    if not isinstance(content, dict):
        raise TypeError("it must hold one JSON object, {…}")
    categories = sorted(content["categories"], key=lambda category: int(category["id"]))
    classes = tuple(str(category["name"]) for category in categories)
    index_of = {int(category["id"]): index for index, category in enumerate(categories)}
    if not categories:
        raise ValueError("it has no categories")
    if len(index_of) < len(categories):
        raise ValueError(f"two of its categories have the same id, of {', '.join(map(str, index_of))}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"two of its categories have the same name, of {', '.join(classes)}")
    by_image = defaultdict(list)
    for annotation in content.get("annotations") or []:
        _check(annotation, index_of)
        by_image[annotation["image_id"]].append(annotation)
    images = content["images"]
    _check_images(images, by_image)
    examples = [_example(image, by_image.get(image["id"], []), index_of, folder) for image in images]
    _check_files(examples)
    return Annotated(examples, classes)


def _check(annotation: dict[str, Any], index_of: dict[int, int]) -> None:
    who = f"annotation {annotation.get('id')}"
    number, box = int(annotation["category_id"]), annotation.get("bbox")
    if number not in index_of:
        known = ", ".join(map(str, index_of))
        raise ValueError(f"{who} has category_id {number}, which is not among the categories' ids {known}")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"{who} has the bbox {box}, not 4 numbers")


def _check_images(images: list[dict[str, Any]], annotated: Mapping[Any, list[dict[str, Any]]]) -> None:
    ids = Counter(image["id"] for image in images)
    for number, count in ids.items():
        if count > 1:
            raise ValueError(f"two images have the id {number}")
    for number, rows in annotated.items():
        if number not in ids:
            who = f"annotation {rows[0].get('id')}"
            raise ValueError(f"{who} has image_id {number}, which no image in the file has")


def _check_files(examples: list[Example]) -> None:
    first: dict[Path, str] = {}
    for example in examples:
        if example.path is not None and example.path in first:
            raise ValueError(f"two images are the same file: {first[example.path]} and {example.key}")
        if example.path is not None:
            first[example.path] = example.key


def _example(
    image: dict[str, Any], annotations: list[dict[str, Any]], index_of: dict[int, int], folder: Folder
) -> Example:
    name = str(image["file_name"])
    found = folder.find_image(name)
    width, height = int(image.get("width") or 0), int(image.get("height") or 0)
    labels = [index_of[int(annotation["category_id"])] for annotation in annotations]
    ignored = [bool(int(annotation.get("iscrowd") or 0)) for annotation in annotations]
    return Example(
        key=name,
        path=folder.images[found] if found else None,
        size=(width, height) if width and height else None,
        boxes=boxes_from_corner_and_size([annotation["bbox"] for annotation in annotations]),
        labels=np.asarray(labels, dtype=np.int64),
        ignored=np.asarray(ignored, dtype=np.bool_),
    )
