"""Precision and recall of each class over the score, and the score that suits best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilewise.arrays import Bool, Float64, Int64
from tilewise.data.records import Records
from tilewise.evaluation.confusion import NOT_COUNTED
from tilewise.instances import Instances

RECALL_LEVELS = np.linspace(0, 1, 101)
"""The recalls at which COCO looks at the precision."""

SCORES = np.arange(1, 100) / 100
"""The score thresholds to choose from."""


@dataclass(frozen=True)
class Curve:
    """The detections of one class, or of all, best score first.

    Attributes:
        objects: how many there are to find.
        scores: (N,) of the detections that count.
        hits: (N,) whether each is a hit.

    """

    objects: int
    scores: Float64
    hits: Bool

    @property
    def precision(self) -> Float64 | None:
        """(101,) at COCO's recall levels the best precision there or beyond; None without objects."""
        if not self.objects:
            return None
        true = np.cumsum(self.hits)
        precision = true / np.arange(1, len(true) + 1)
        best_beyond = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        levels: Float64 = best_beyond[np.searchsorted(true / self.objects, RECALL_LEVELS)]
        return levels

    @property
    def f1(self) -> Float64:
        """(99,) F1 of the detections of at least each of the :data:`SCORES`."""
        count = np.searchsorted(-self.scores, -SCORES, side="right")
        true = np.append(0, np.cumsum(self.hits))[count]
        f1: Float64 = 2 * true / np.maximum(count + self.objects, 1)
        return f1

    @property
    def finds(self) -> bool:
        """Whether some of the :data:`SCORES` leaves a detection that is right."""
        return bool(self.f1.max() > 0)

    @property
    def best_score(self) -> float:
        """The score threshold of the best F1; where several are equally good, the middle one of them."""
        f1 = self.f1
        best = np.flatnonzero(f1 == f1.max())
        return float(SCORES[best[len(best) // 2]])


def curves(
    records: Records, detections: Sequence[Instances], matches: Sequence[Int64], *, num_classes: int
) -> tuple[list[Curve], Curve]:
    """The curve of each class, and that of all detections together.

    Args:
        records: the ground truth.
        detections: one a record, best score first.
        matches: what :func:`tilewise.evaluation.confusion.match` says of them.
        num_classes: how many there are.

    """
    which = np.concatenate([np.zeros(0, np.int64), *matches])
    scores = np.concatenate([np.zeros(0), *(instances.scores for instances in detections)])
    labels = np.concatenate([np.zeros(0, np.int64), *(instances.labels for instances in detections)])
    order = np.argsort(-scores, kind="stable")
    order = order[which[order] != NOT_COUNTED]
    scores, labels, hits = scores[order].astype(np.float64), labels[order], which[order] >= 0
    objects = np.bincount(records.targets.labels[~records.targets.ignored], minlength=num_classes)
    own = [labels == label for label in range(num_classes)]
    by_class = [Curve(int(objects[label]), scores[mine], hits[mine]) for label, mine in enumerate(own)]
    return by_class, Curve(int(objects.sum()), scores, hits)
