"""What an endpoint answers about objects. Without torch: a server answers /ping before that is loaded."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilewise.tasks.answers import Answered, AnswerForm, Threshold
from tilewise.tasks.detection.builtin import as_annotations, as_rows
from tilewise.tasks.detection.forms import FORMS

if TYPE_CHECKING:
    from PIL.Image import Image

    from tilewise.arrays import Array
    from tilewise.inference.detections import Prediction


class DetectionAnswers:
    """Of boxes: :class:`tilewise.tasks.answers.Answers`; its own JSON is the built-in algorithm's."""

    forms: ClassVar[Mapping[str, AnswerForm]] = FORMS
    schema: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {
            "prediction": {
                "type": "array",
                "description": "[class, score, xmin, ymin, xmax, ymax] of each object, corners as fractions",
                "items": {"type": "array", "items": {"type": "number"}, "minItems": 6, "maxItems": 6},
            },
            "classes": {"type": "array", "items": {"type": "string"}},
        },
    }

    def content(self, answered: Answered, *, as_annotation: bool) -> dict[str, Any]:
        """One of the built-in algorithm's two forms, and the classes."""
        if as_annotation:
            names = enumerate(answered.classes)
            categories = [{"class_id": label, "name": name} for label, name in names]
            return as_annotations(answered.prediction) | {"categories": categories}
        return as_rows(answered.prediction) | {"classes": list(answered.classes)}

    def choose(
        self,
        prediction: Prediction,
        *,
        threshold: Threshold,
        labels: Container[int] | None,
        most: int | None,
    ) -> Prediction:
        """See :class:`tilewise.tasks.answers.Answers`."""
        chosen = [
            index
            for index, (_, score, label) in enumerate(prediction.detections)
            if score >= _of(threshold, label) and (labels is None or label in labels)
        ][:most]
        if len(chosen) == len(prediction.detections):
            return prediction
        indexes = np.array(chosen, dtype=np.int64)
        return replace(prediction, detections=prediction.detections.select(indexes))

    def draw(self, pixels: Array, answered: Answered) -> Image:
        """Boxes, one colour a class, and a legend with counts."""
        # Imported here: few requests ask for it.
        from tilewise.evaluation.draw import draw_detections

        return draw_detections(pixels, answered.prediction.detections, answered.classes)


def _of(threshold: Threshold, label: int) -> float:
    return threshold if isinstance(threshold, float) else threshold[label]
