"""The label of an image as SageMaker Ground Truth writes it, and as the built-in Object Detection takes it.

Specification: the developer guide's "Object Detection", section "Train with Augmented Manifest Image Format",
and "Bounding box job output" of Ground Truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tilewise.arrays import Array
from tilewise.data.annotations import boxes_from_corner_and_size
from tilewise.data.quoting import NoValue, as_number, quoted
from tilewise.targets import Targets

MAX_CLASS_ID = 2**31
_SIDES = ("left", "top", "width", "height")


class Label(NamedTuple):
    """What the label of an image says.

    Attributes:
        targets: the objects, whose labels are class ids.
        size: width and height of the image, or None.
        unread: why objects have no box, each as a message says it.

    """

    targets: Targets[Array]
    size: tuple[int, int] | None
    unread: tuple[str, ...] = ()


def parse_label(content: Mapping[str, Any]) -> Label:
    """Read ``{"image_size": […], "annotations": [{class_id, left, top, width, height}, …]}``.

    Class ids may be texts; ``image_size`` may be missing.

    Raises:
        ValueError: it has another form; the message says where, in words that follow "its label: ".

    """
    if not isinstance(content, Mapping):
        raise ValueError(f"it is {quoted(content)}, not an object with annotations")
    if "annotations" not in content:
        raise ValueError("the key 'annotations' is missing")
    annotations = content["annotations"]
    if not isinstance(annotations, list):
        raise ValueError(f"annotations is {quoted(annotations)}, not a list")
    rows: list[list[float]] = []
    ids: list[int] = []
    unread: list[str] = []
    for index, annotation in enumerate(annotations):
        try:
            if not isinstance(annotation, dict):
                raise ValueError(
                    f"it is {quoted(annotation)}, not an object with class_id and {', '.join(_SIDES)}"
                )
            number = _class_id(annotation["class_id"])
            rows.append([as_number(annotation[side], f"its {side} is") for side in _SIDES])
            ids.append(number)
        except NoValue as error:
            unread.append(f"annotations[{index}]: {error}")
        except KeyError as error:
            raise ValueError(f"annotations[{index}]: the key {error} is missing") from None
        except ValueError as error:
            raise ValueError(f"annotations[{index}]: {error}") from None
    size = _size(content.get("image_size"))
    boxes, labels = boxes_from_corner_and_size(rows), np.asarray(ids, dtype=np.int64)
    return Label(Targets(boxes, labels, np.zeros(len(labels), np.bool_)), size, tuple(unread))


def _class_id(value: Any) -> int:
    try:
        number = as_number(value, "")
    except ValueError:
        number = -1
    if not (0 <= number < MAX_CLASS_ID and number.is_integer()):
        raise ValueError(f"class_id {quoted(value)} is not 0, 1, 2, …")
    return int(number)


def _size(sizes: Any) -> tuple[int, int] | None:
    if not sizes:
        return None
    first = sizes[0] if isinstance(sizes, list) else sizes
    try:
        return int(first["width"]), int(first["height"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"image_size is {quoted(sizes)}, without width and height in pixels") from None


def class_map(metadata: Any) -> dict[int, str]:
    """Class id -> name, from the ``class-map`` of a label's ``…-metadata``: the classes of this one image.

    Empty where there is none, or it has another form.
    """
    names = metadata.get("class-map") if isinstance(metadata, dict) else None
    try:
        return {_class_id(each): str(name) for each, name in names.items()} if names else {}
    except (AttributeError, TypeError, ValueError, OverflowError):
        return {}
