"""Labels of images whose classes have numbers: in records, in lists and in augmented manifests.

Specification: SageMaker's developer guide, "Image Classification", and Ground Truth's "Image classification
job output".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tilewise.arrays import Array
from tilewise.data.ground_truth import class_map
from tilewise.data.image_labels import whole_image_targets
from tilewise.data.quoting import as_number, quoted
from tilewise.errors import UserError
from tilewise.targets import Targets


@dataclass(frozen=True)
class ImageLabels:
    """How they are written.

    Attributes:
        several: whether an image has any number of classes: a row of 0 and 1, one a class.
        class_ids: whether it has their ids instead, in a manifest.
        widths: of the rows that have been read.

    """

    several: bool
    class_ids: bool = False
    widths: set[int] = field(default_factory=set)

    def of_numbers(self, values: Sequence[float]) -> Targets[Array]:
        """The labels in a row of numbers.

        Raises:
            ValueError: it is none of this kind.

        """
        if not self.several:
            return whole_image_targets(_one_label(values))
        labels = _hot_labels(values)
        self.widths.add(len(values))
        return whole_image_targets(labels)

    @staticmethod
    def may_be(value: object) -> bool:
        """Whether a value of JSON can be the label of an image, of either kind."""
        return isinstance(value, int | float | str | list) and not isinstance(value, bool)

    def of_json(self, value: object, names: Mapping[int, str]) -> Targets[Array]:
        """A label of a manifest; where classes have ``names``, as Ground Truth gives them, by their ids.

        Raises:
            ValueError: it is none of this kind; the message follows "its label: ".

        """
        if isinstance(value, list) != self.several:
            kind = "a list of classes" if self.several else "one class"
            task = "classification" if self.several else "multilabel_classification"
            raise ValueError(
                f"it is {quoted(value)}, and an image has {kind} here: give that, or task={task}"
            )
        numbers = [as_number(each, "it has") for each in (value if isinstance(value, list) else [value])]
        if self.several and (self.class_ids or names or not numbers):
            return whole_image_targets([label for each in numbers for label in _one_label([each])])
        if self.several and any(number not in (0, 1) for number in numbers):
            raise ValueError(
                f"it is {quoted(value)}: give 0 or 1 for each class, or class ids with the channel's content "
                "type application/x-recordio; label-format=class-id"
            )
        return self.of_numbers(numbers)

    def names(self, value: object, metadata: Any) -> dict[int, str]:
        """Class id -> name, from the ``…-metadata`` of a label; empty where it names none."""
        if self.several:
            return class_map(metadata)
        name = metadata.get("class-name") if isinstance(metadata, dict) else None
        try:
            return {_one_label([as_number(value, "")])[0]: str(name)} if name else {}
        except ValueError:
            return {}

    def classes(self, where: str) -> tuple[str, ...] | None:
        """The classes of the rows that have been read, called by their numbers; None where there are none.

        Raises:
            UserError: rows are for different numbers of classes.

        """
        if len(self.widths) > 1:
            counts = ", ".join(map(str, sorted(self.widths)))
            raise UserError(
                f"{where}: images have labels for {counts} classes: give 0 or 1 for each class to all"
            )
        return tuple(map(str, range(max(self.widths)))) if self.widths else None


def media_type(content_type: str) -> str:
    """A content type without its parameters."""
    return content_type.partition(";")[0].strip()


def has_class_ids(content_type: str) -> bool:
    """Whether a channel's content type says that its images have the ids of their classes."""
    return "label-format=class-id" in content_type.replace(" ", "").lower()


def _hot_labels(values: Sequence[float]) -> list[int]:
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


def _one_label(values: Sequence[float]) -> list[int]:
    """The class id that the only one of some numbers is.

    Raises:
        ValueError: they are several, or it is no id.

    """
    if len(values) != 1:
        raise ValueError(
            f"it has {len(values)} labels, and an image has one class here: give one class id, or "
            "task=multilabel_classification (multi_label=1)"
        )
    if not (float(values[0]).is_integer() and 0 <= values[0] < 1 << 24):
        raise ValueError(f"its label is {values[0]:g}, which is not 0, 1, 2, …")
    return [int(values[0])]
