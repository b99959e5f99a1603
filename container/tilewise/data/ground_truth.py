"""The label of an image as SageMaker Ground Truth writes it, and as the built-in Object Detection takes it.

Specification: the developer guide's "Object Detection", section "Train with Augmented Manifest Image Format",
and "Bounding box job output" of Ground Truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tilewise.arrays import Array
from tilewise.data.annotations import boxes_from_corner_and_size
from tilewise.targets import Targets

MAX_CLASS_ID = 2**31


def parse_label(content: Mapping[str, Any]) -> tuple[Targets[Array], tuple[int, int] | None]:
    """Read ``{"image_size": […], "annotations": [{class_id, left, top, width, height}, …]}``.

    Class ids may be texts; ``image_size`` may be missing.

    Returns:
        the objects, whose labels are class ids;
        width and height of the image, or None.

    Raises:
        ValueError: it has another form; the message says where, in words that follow "its label: ".

    """
    rows: list[tuple[float, float, float, float]] = []
    ids: list[int] = []
    where = ""
    try:
        for index, annotation in enumerate(content["annotations"]):
            where = f"annotations[{index}]: "
            ids.append(_class_id(annotation["class_id"]))
            left, top = annotation["left"], annotation["top"]
            rows.append((float(left), float(top), float(annotation["width"]), float(annotation["height"])))
        where = "image_size: "
        size = _size(content.get("image_size"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where}{what}") from None
    boxes, labels = boxes_from_corner_and_size(rows), np.asarray(ids, dtype=np.int64)
    return Targets(boxes, labels, np.zeros(len(labels), np.bool_)), size


def _class_id(value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if not (0 <= number < MAX_CLASS_ID and number.is_integer()):
        raise ValueError(f"class_id {value} is not 0, 1, 2, …")
    return int(number)


def _size(sizes: Any) -> tuple[int, int] | None:
    if not sizes:
        return None
    first = sizes[0] if isinstance(sizes, list) else sizes
    return int(first["width"]), int(first["height"])


def class_map(metadata: Any) -> dict[int, str]:
    """Class id -> name, from the ``class-map`` of a label's ``…-metadata``: the classes of this one image.

    Empty where there is none, or it has another form.
    """
    names = metadata.get("class-map") if isinstance(metadata, dict) else None
    try:
        return {_class_id(number): str(name) for number, name in names.items()} if names else {}
    except (AttributeError, TypeError, ValueError, OverflowError):
        return {}
