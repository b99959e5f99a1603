"""Images with one JSON file each, as LabelMe writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from tilewise.data.records import Record
from tilewise.data.writers.output import Box, Output, check_class_names, number
from tilewise.errors import UserError

VERSION = "5.4.1"
"""Of the form of the files."""


def write_labelme(records: Iterable[Record], classes: tuple[str, ...], output: Output) -> None:
    """Write images and JSON files side by side; ignored boxes have the flag ``difficult``.

    The format has no list of classes: those without objects are lost.

    Raises:
        UserError: a class's name has a line break or the like, or a meaning of its own in LabelMe.

    """
    check_class_names(classes, "LabelMe")
    if "__ignore__" in classes:
        raise UserError("LabelMe takes objects of the class __ignore__ for none: give the class another name")
    used: set[int] = set()
    for record in records:
        name = output.put_image(record, ".")
        used.update(record.targets.labels.tolist())
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": [_shape(box, classes) for box in output.boxes_of(record, holds_ignored=True)],
            "imagePath": name,
            "imageData": None,
            "imageHeight": record.height,
            "imageWidth": record.width,
        }
        path = output.folder / f"{PurePosixPath(name).stem}.json"
        path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    output.notes["classes without objects, which LabelMe has no place for"] += len(classes) - len(used)


def _shape(box: Box, classes: tuple[str, ...]) -> dict[str, Any]:
    label, xmin, ymin, xmax, ymax, ignored = box
    return {
        "label": classes[label],
        "points": [[number(xmin), number(ymin)], [number(xmax), number(ymax)]],
        "group_id": None,
        "description": "",
        "shape_type": "rectangle",
        "flags": {"difficult": True} if ignored else {},
    }
