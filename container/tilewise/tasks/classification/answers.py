"""What an endpoint answers about the classes of images. Without torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tilewise.tasks.answers import Answered, AnswerForm, Threshold
from tilewise.tasks.classification.prediction import ClassScores

if TYPE_CHECKING:
    from PIL.Image import Image

    from tilewise.arrays import Array

SHOWN = 5
"""So many classes are written on a picture, the likeliest first."""


def _scores(answered: Answered) -> list[float]:
    """Without the digits that a float32 does not have."""
    return [float(f"{score:.9g}") for score in answered.prediction.scores.tolist()]


def _names(answered: Answered) -> list[str]:
    return [answered.class_name(label) for label in range(len(answered.prediction.scores))]


def azure(images: Sequence[Answered]) -> str:
    """As an endpoint of Azure AutoML for images: all classes, in the order of their labels."""
    entries = [
        {"probs": _scores(answered), "labels": _names(answered), **answered.explanation}
        for answered in images
    ]
    return json.dumps(entries, ensure_ascii=False, separators=(",", ":")) + "\n"


def as_csv(images: Sequence[Answered]) -> str:
    """A title, and a line an image: its name, and the score of each class."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", *(_names(images[0]) if images else [])])
    rows.writerows([answered.file_name, *_scores(answered)] for answered in images)
    return text.getvalue()


class ClassificationAnswers:
    """Of classes: :class:`tilewise.tasks.answers.Answers`; its own JSON is the built-in algorithm's."""

    forms: ClassVar[Mapping[str, AnswerForm]] = {
        "azure": AnswerForm("application/json", azure),
        "csv": AnswerForm("text/csv", as_csv),
    }
    schema: ClassVar[Mapping[str, Any]] = {
        "type": "object",
        "properties": {
            "prediction": {
                "type": "array",
                "description": "the score of each class, in the order of the classes",
                "items": {"type": "number"},
            },
            "classes": {"type": "array", "items": {"type": "string"}},
            "visualizations": {
                "description": "with model_explainability: a PNG as base64, or a list of them"
            },
            "attributions": {"description": "the same as numbers", "type": "array"},
        },
    }

    def content(self, answered: Answered, *, as_annotation: bool) -> dict[str, Any]:
        """The built-in algorithm's, and the classes; as an annotation its likeliest class."""
        scores = _scores(answered)
        if as_annotation:
            label = int(np.argmax(scores))
            return {"class_id": label, "class_name": answered.class_name(label), "score": scores[label]}
        return {"prediction": scores, "classes": list(answered.classes), **answered.explanation}

    def choose(
        self,
        prediction: ClassScores,
        *,
        threshold: Threshold,
        labels: Container[int] | None,
        most: int | None,
    ) -> ClassScores:
        """Every class keeps its place: the score of one that is not chosen is 0."""
        scores = prediction.scores
        least = np.broadcast_to(threshold, scores.shape)
        chosen = (scores >= least) & [labels is None or label in labels for label in range(len(scores))]
        if most is not None:
            order = np.argsort(-scores, kind="stable")
            chosen &= np.isin(np.arange(len(scores)), order[chosen[order]][:most])
        if chosen.all():
            return prediction
        return replace(prediction, scores=np.where(chosen, scores, 0).astype(np.float32))

    def draw(self, pixels: Array, answered: Answered) -> Image:
        """The image, with the names and scores of its likeliest classes."""
        # Imported here: few requests ask for it.
        from PIL import Image, ImageDraw, ImageFont

        image = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, 2)))
        scores = _scores(answered)
        best = sorted(range(len(scores)), key=lambda label: -scores[label])[:SHOWN]
        lines = "\n".join(f"{answered.class_name(label)} {scores[label]:.2f}" for label in best)
        font = ImageFont.load_default(max(10, min(image.size) // 24))
        drawing = ImageDraw.Draw(image)
        drawing.rectangle(drawing.multiline_textbbox((4, 4), lines, font=font), fill=(0, 0, 0))
        drawing.multiline_text((4, 4), lines, font=font, fill=(255, 255, 255))
        return image
