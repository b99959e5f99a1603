"""All that can be said of a model's detections in annotated images, for report and ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np

from tilewise.arrays import Int64
from tilewise.data.records import Records
from tilewise.evaluation.confusion import (
    IOU_THRESHOLD,
    Outcome,
    confusion_matrix,
    match,
    outcome,
)
from tilewise.evaluation.curves import Curve, curves
from tilewise.evaluation.fit_calibration import calibration_error, fit_calibration
from tilewise.inference.score_calibration import ScoreCalibration
from tilewise.instances import Instances

BACKGROUND = "(background)"


@dataclass(frozen=True)
class Scored:
    """Annotated images, and what a model found in each."""

    records: Records
    detections: list[Instances]

    @classmethod
    def interleaved(cls, parts: Sequence[Scored]) -> Scored:
        """The images of several processes, of which each one takes every n-th, in their order."""
        pairs = [zip(part.records, part.detections, strict=True) for part in parts]
        merged = [pair for row in zip_longest(*pairs) for pair in row if pair is not None]
        return cls(Records(record for record, _ in merged), [detections for _, detections in merged])


@dataclass(frozen=True)
class Analysis:
    """What a model finds, misses and mistakes at IoU 0.5.

    Attributes:
        classes: names by label.
        records: the ground truth.
        outcomes: one a record, at the score threshold.
        score_threshold: of the best F1 of all classes together.
        total: the curve of all detections.
        by_class: the curve of each class.
        confusion: see :func:`~tilewise.evaluation.confusion.confusion_matrix`.
        by_size: ``AP_by_size`` of :func:`~tilewise.evaluation.coco.coco_metrics`.

    """

    classes: tuple[str, ...]
    records: Records
    outcomes: list[Outcome]
    score_threshold: float
    total: Curve
    by_class: list[Curve]
    confusion: Int64
    by_size: dict[str, dict[str, Any]]

    def rates(self, label: int | None = None) -> dict[str, float | None]:
        """Precision, recall and F1 at the score threshold, of a class or of all; None where undefined."""
        objects = self.confusion[:-1].sum(axis=1)
        detection_counts = self.confusion[:, :-1].sum(axis=0)
        hits = self.confusion.diagonal()[:-1]
        of = slice(None) if label is None else slice(label, label + 1)
        hit, detected, there = int(hits[of].sum()), int(detection_counts[of].sum()), int(objects[of].sum())
        return {
            "precision": _share(hit, detected),
            "recall": _share(hit, there),
            "F1": _share(2 * hit, detected + there),
        }

    def class_rows(self) -> dict[str, dict[str, Any]]:
        """By class name: objects, AP50, the score of its own best F1, and the rates."""
        rows = {}
        for label, name in enumerate(self.classes):
            curve = self.by_class[label]
            precision = curve.precision
            rows[name] = {
                "objects": curve.objects,
                "AP50": None if precision is None else round(float(precision.mean()), 6),
                "best_score_threshold": curve.best_score if curve.finds else None,
                **self.rates(label),
            }
        return rows

    @cached_property
    def calibration(self) -> ScoreCalibration | None:
        """What the scores mean; None where the validation has too few detections to say it."""
        return fit_calibration(self.total.scores, self.total.hits)

    @property
    def calibration_errors(self) -> tuple[float, float] | None:
        """The expected calibration error of the scores, and of the calibrated ones, on the same images."""
        if self.calibration is None:
            return None
        calibrated = self.calibration(self.total.scores).astype(np.float64)
        before, after = (calibration_error(each, self.total.hits) for each in (self.total.scores, calibrated))
        return before, after

    def recommended(self) -> dict[str, Any]:
        """The scores of the best F1, of all together and of each class that was found; what scores mean."""
        if not self.total.finds:
            return {}
        found = zip(self.classes, self.by_class, strict=True)
        calibration = self.calibration
        return {
            **({} if calibration is None else {"score_calibration": calibration.to_json()}),
            "recommended_threshold": self.score_threshold,
            "recommended_thresholds": {name: curve.best_score for name, curve in found if curve.finds},
        }

    def to_json(self) -> dict[str, Any]:
        """What ``metrics.json`` holds of it; of the confusion matrix what is not 0, true class first."""
        names = (*self.classes, BACKGROUND)
        confusion = {
            true: {predicted: count for predicted, count in zip(names, row, strict=True) if count}
            for true, row in zip(names, self.confusion.tolist(), strict=True)
        }
        return {
            "score_threshold": self.score_threshold,
            "iou_threshold": IOU_THRESHOLD,
            **self.rates(),
            "classes": self.class_rows(),
            "confusion": confusion,
            "AP_by_size": self.by_size,
        }


def analyse(scored: Scored, classes: tuple[str, ...], metrics: Mapping[str, Any]) -> Analysis:
    """Compare detections with the ground truth.

    Args:
        scored: detections best score first.
        classes: names by label.
        metrics: :func:`~tilewise.evaluation.evaluate.metrics` of the same.

    """
    records, detections = scored.records, scored.detections
    matches = [match(record, instances) for record, instances in zip(records, detections, strict=True)]
    by_class, total = curves(records, detections, matches, num_classes=len(classes))
    threshold = total.best_score
    outcomes = [
        outcome(record, instances, which, score_threshold=threshold)
        for record, instances, which in zip(records, detections, matches, strict=True)
    ]
    return Analysis(
        classes=classes,
        records=records,
        outcomes=outcomes,
        score_threshold=threshold,
        total=total,
        by_class=by_class,
        confusion=confusion_matrix(zip(records, outcomes, strict=True), len(classes)),
        by_size=metrics.get("AP_by_size", {}),
    )


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
