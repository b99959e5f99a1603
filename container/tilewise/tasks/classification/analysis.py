"""What there is to say of a classifier beyond its figures: by class, and which images it is most wrong of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics as sk

from tilewise.arrays import Bool, Float64, Int64
from tilewise.data.image_labels import shown_classes
from tilewise.data.records import Records
from tilewise.tasks.classification.metrics import predicted
from tilewise.tasks.classification.prediction import ClassScores

MOST_WRONG = 24
"""So many images are named."""


@dataclass(frozen=True)
class ScoredImages:
    """Images with their classes, and what a model said of each."""

    records: Records
    predictions: Sequence[ClassScores]

    @classmethod
    def interleaved(cls, parts: Sequence[ScoredImages]) -> ScoredImages:
        """See :class:`tilewise.tasks.task.Scored`."""
        longest = max(len(part.predictions) for part in parts)
        order = [(part, at) for at in range(longest) for part in parts if at < len(part.predictions)]
        return cls(
            Records(part.records[at] for part, at in order), [part.predictions[at] for part, at in order]
        )

    def truth(self, classes: int) -> Bool:
        """(N, C) which classes each image has."""
        return shown_classes(self.records, classes)

    def scores(self) -> Float64:
        """(N, C) what the model said."""
        return np.stack([each.scores for each in self.predictions]).astype(np.float64)


@dataclass(frozen=True)
class Analysis:
    """What a model said of images, looked at closely.

    Attributes:
        scored: images and what the model said of them.
        classes: names by label.
        truth: (N, C) which classes each image has.
        scores: (N, C).
        several: whether an image has any number of classes.

    """

    scored: ScoredImages
    classes: tuple[str, ...]
    truth: Bool
    scores: Float64
    several: bool

    @property
    def found(self) -> Bool:
        """(N, C) which classes the model says that each image has."""
        return predicted(self.scores, several=self.several)

    def confusion(self) -> Int64 | None:
        """(C, C) images by their class, a row each, and the one that the model says; None for several."""
        if self.several:
            return None
        labels = np.arange(len(self.classes))
        matrix: Int64 = sk.confusion_matrix(
            self.truth.argmax(axis=1), self.scores.argmax(axis=1), labels=labels
        )
        return matrix

    def by_class(self) -> dict[str, dict[str, float | None]]:
        """By name: images, precision, recall, F1, and the areas under both curves."""
        truth, found = self.truth, self.found
        rows = sk.precision_recall_fscore_support(truth, found, average=None, zero_division=0)
        table: dict[str, dict[str, float | None]] = {}
        for label, name in enumerate(self.classes):
            precision, recall, f1 = (float(row[label]) for row in rows[:3])
            both = bool(truth[:, label].any() and not truth[:, label].all())
            there = bool(truth[:, label].any())
            column = truth[:, label], self.scores[:, label]
            table[name] = {
                "images": int(truth[:, label].sum()),
                "precision": precision if found[:, label].any() else None,
                "recall": recall if there else None,
                "f1": f1 if there else None,
                "AUC": float(sk.roc_auc_score(*column)) if both else None,
                "average_precision": float(sk.average_precision_score(*column)) if both else None,
            }
        return table

    def most_wrong(self) -> list[int]:
        """The images that the model is wrong of, the surest mistakes first."""
        wrong = (self.found != self.truth).any(axis=1)
        if self.several:
            doubt = np.abs(self.truth - self.scores).max(axis=1)
        else:
            doubt = 1 - self.scores[np.arange(len(self.scores)), self.truth.argmax(axis=1)]
        order = np.argsort(-doubt, kind="stable")
        return [int(index) for index in order if wrong[index]][:MOST_WRONG]

    def said(self, index: int) -> tuple[list[str], list[str], float]:
        """Of an image: its classes, those that the model says, and the score of the surest of these."""
        true = [self.classes[label] for label in np.flatnonzero(self.truth[index])]
        found = [self.classes[label] for label in np.flatnonzero(self.found[index])]
        return true, found, float(self.scores[index].max())

    def to_json(self) -> dict[str, Any]:
        """See :class:`tilewise.tasks.task.Details`."""
        confusion = self.confusion()
        wrong = []
        for index in self.most_wrong():
            true, found, score = self.said(index)
            wrong.append(
                {"image": self.scored.records[index].key, "classes": true, "said": found, "score": score}
            )
        return {
            "by_class": self.by_class(),
            "confusion": None if confusion is None else confusion.tolist(),
            "most_wrong": wrong,
        }

    def recommended(self) -> dict[str, Any]:
        """Nothing: every class has its score in an answer."""
        return {}
