"""Ground truth that is of an image as a whole: one label, or several.

Each is an object that covers its image. So records, shares, classes and their checks are those of objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewise.arrays import Array, Bool
from tilewise.data.quoting import quoted
from tilewise.data.records import Records
from tilewise.registry.classifiers import ONE_LABEL, SEVERAL_LABELS
from tilewise.targets import Targets

__all__ = ["ONE_LABEL", "SEVERAL_LABELS", "names_of", "shown_classes", "whole_image_targets"]


def whole_image_targets(labels: Sequence[int]) -> Targets[Array]:
    """Objects of these labels that cover their image, as fractions of its sides; repeated ones once."""
    unique = list(dict.fromkeys(labels))
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (len(unique), 1))
    return Targets(boxes, np.asarray(unique, np.int64), np.zeros(len(unique), np.bool_))


def shown_classes(records: Records, classes: int) -> Bool:
    """(N, classes) which classes each image has."""
    shown = np.zeros((len(records), classes), np.bool_)
    shown[np.repeat(np.arange(len(records)), records.object_counts), records.targets.labels] = True
    return shown


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


def _name(label: object) -> str:
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise ValueError(f"its label is {quoted(label)}, not the name of a class")
    return str(label).strip()
