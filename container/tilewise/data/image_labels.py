"""Ground truth that is of an image as a whole: one label, or several.

Each is an object that covers its image. So records, shares, classes and their checks are those of objects.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from tilewise.arrays import Array
from tilewise.data.quoting import quoted
from tilewise.errors import UserError
from tilewise.targets import Targets

ONE_LABEL, SEVERAL_LABELS = "image_label", "image_labels"
"""Among the fields of the ground truth that a task learns from: an image has one label, or any number."""


def whole_image_targets(labels: Sequence[int]) -> Targets[Array]:
    """Objects of these labels that cover their image, as fractions of its sides; repeated ones once."""
    unique = list(dict.fromkeys(labels))
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (len(unique), 1))
    return Targets(boxes, np.asarray(unique, np.int64), np.zeros(len(unique), np.bool_))


def names_of(label: object, *, several: bool) -> list[str]:
    """The names of an image's classes, as a file of labels has them: a text, or with ``several`` a list.

    Raises:
        ValueError: it is neither, or the other one; the message follows the record's name.

    """
    if isinstance(label, list) and label and all(isinstance(each, dict) for each in label):
        raise ValueError(
            "its label is a list of objects with boxes: give task=detection, or names of classes"
        )
    if isinstance(label, list):
        if not several:
            raise ValueError(
                f"its label is {quoted(label)}, and an image has one class here: give one name, or "
                "task=multilabel_classification"
            )
        return [_name(each) for each in label]
    if several:
        raise ValueError(
            f"its label is {quoted(label)}, and an image has a list of classes here: give a list of names, "
            "or task=classification"
        )
    return [_name(label)]


def hot_labels(values: Sequence[float]) -> list[int]:
    """The labels that a row of 0 and 1, one a class, has.

    Raises:
        ValueError: it has other numbers, or is no row.

    """
    if len(values) < 2:
        raise ValueError(
            "its label is one number, and an image has several classes here: give 0 or 1 for each class, or "
            "task=classification (multi_label=0)"
        )
    wrong = [value for value in values if value not in (0, 1)]
    if wrong:
        raise ValueError(f"its labels have the number {wrong[0]:g}: give 0 or 1 for each class")
    return [label for label, value in enumerate(values) if value]


def check_one_width(widths: Collection[int], where: str) -> None:
    """Refuse rows of 0 and 1 for different numbers of classes.

    Raises:
        UserError: they are.

    """
    if len(widths) > 1:
        counts = ", ".join(map(str, sorted(widths)))
        raise UserError(
            f"{where}: images have labels for {counts} classes: give 0 or 1 for each class to all"
        )


def one_label(values: Sequence[float]) -> list[int]:
    """The class id that the only one of some numbers is.

    Raises:
        ValueError: they are several, or it is no id.

    """
    if len(values) != 1:
        raise ValueError(
            f"it has {len(values)} labels, and an image has one class here: give one class id, or "
            "task=multilabel_classification (multi_label=1)"
        )
    if values[0] < 0 or values[0] != int(values[0]) or values[0] >= 1 << 24:
        raise ValueError(f"its label is {values[0]:g}, which is not 0, 1, 2, …")
    return [int(values[0])]


def _name(label: object) -> str:
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise ValueError(f"its label is {quoted(label)}, not the name of a class")
    return str(label).strip()
