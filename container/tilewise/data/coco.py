"""Images and one COCO JSON file. Specification: cocodataset.org, "Data format", section "Object Detection"."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilewise.data.annotations import Example, ImageFinder, boxes_from_corner_and_size
from tilewise.errors import UserError


@dataclass(frozen=True)
class Coco:
    """What a COCO channel holds; labels are indices into ``classes``.

    Attributes:
        examples: one an image that the JSON file names, images without objects too.
        classes: the categories' names, in the order of their ids.
        used: the indices of the classes that have an object.

    """

    examples: list[Example]
    classes: tuple[str, ...]
    used: frozenset[int]


def find_coco_file(folder: Path) -> Path | None:
    """The COCO file in a folder: the only ``.json`` in it that holds ``images`` and ``categories``, or None.

    Raises:
        UserError: there are several.

    """
    found = []
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("annotations/*.json")):
        with path.open("rb") as file:
            # A COCO file is one large object; an annotation file of one image holds no "images".
            if b'"images"' in file.read() and path.is_file():
                found.append(path)
    if len(found) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found)
        raise UserError(f"channel {folder.name} holds several COCO files ({names}): keep one in each channel")
    return found[0] if found else None


def read_coco(file: Path, images: Path) -> Coco:
    """Read a COCO file; its images are looked for below ``images``.

    Crowds are kept as ignored boxes. Boxes are float pixels ``x, y, width, height`` from the top left.

    Raises:
        UserError: the file is not JSON, not COCO, or contradicts itself; the message names the file and the entry.

    """
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name} is not valid JSON: {error}") from None
    try:
        return _parse(content, ImageFinder(images))
    except KeyError as error:
        raise UserError(f"{file.name} is not a COCO file: the key {error} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file.name} is not a COCO file: {error}") from None


def _parse(content: dict[str, Any], finder: ImageFinder) -> Coco:
    categories = sorted(content["categories"], key=lambda category: int(category["id"]))
    if not categories:
        raise ValueError("it has no categories")
    classes = tuple(str(category["name"]) for category in categories)
    if len(set(classes)) < len(classes):
        raise ValueError(f"two of its categories have the same name, of {', '.join(classes)}")
    index_of = {int(category["id"]): index for index, category in enumerate(categories)}
    by_image = defaultdict(list)
    for annotation in content.get("annotations") or []:
        number = int(annotation["category_id"])
        if number not in index_of:
            known = ", ".join(map(str, index_of))
            raise ValueError(
                f"annotation {annotation.get('id')} has category_id {number}, which is not among the categories' ids {known}"
            )
        by_image[annotation["image_id"]].append(annotation)
    examples, seen = [], set()
    for image in content["images"]:
        if image["id"] in seen:
            raise ValueError(f"two images have the id {image['id']}")
        seen.add(image["id"])
        examples.append(_example(image, by_image.pop(image["id"], []), index_of, finder))
    if by_image:
        orphan = next(iter(by_image.values()))[0]
        raise ValueError(
            f"annotation {orphan.get('id')} has image_id {orphan['image_id']}, which no image in the file has"
        )
    used = frozenset(int(label) for example in examples for label in np.unique(example.labels))
    return Coco(examples, classes, used)


def _example(
    image: dict[str, Any], annotations: list[dict[str, Any]], index_of: dict[int, int], finder: ImageFinder
) -> Example:
    name = str(image["file_name"])
    found = finder.find(name)
    for annotation in annotations:
        if len(annotation["bbox"]) != 4:
            raise ValueError(f"annotation {annotation.get('id')} has a bbox of {len(annotation['bbox'])} numbers, not 4")
    return Example(
        key=name,
        path=finder.files[found] if found else None,
        size=(int(image["width"]), int(image["height"])) if "width" in image and "height" in image else None,
        boxes=boxes_from_corner_and_size([annotation["bbox"] for annotation in annotations]),
        labels=np.asarray([index_of[int(annotation["category_id"])] for annotation in annotations], dtype=np.int64),
        ignored=np.asarray([bool(annotation.get("iscrowd", 0)) for annotation in annotations], dtype=np.bool_),
    )
