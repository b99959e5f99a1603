"""Which detection stands for which object: hits, false positives, missed and mistaken objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tilewise.arrays import Bool, Float64, Int64
from tilewise.data.records import Record
from tilewise.evaluation.overlap import iou, share_inside
from tilewise.evaluation.parts import parts_of
from tilewise.instances import Instances

IOU_THRESHOLD = 0.5

FALSE_ALARM = -1
"""In place of an object's index: there is none."""

NOT_COUNTED = -2
"""In place of an object's index: the detection lies on an ignored object."""


def match(record: Record, detections: Instances, iou_threshold: float = IOU_THRESHOLD) -> Int64:
    """The object of its own class that each detection hits.

    As in pycocotools: best score first, each detection takes the free object of highest IoU, if that reaches
    the threshold; of those left, what lies on an ignored object does not count. What a detection gets does
    not depend on those of lower score.

    Args:
        record: the ground truth.
        detections: in the record's pixels, best score first.
        iou_threshold: from this on it is a hit.

    Returns:
        (N,) the index of the object, :data:`FALSE_ALARM` or :data:`NOT_COUNTED`.

    """
    detections = _precise(detections)
    result = np.full(len(detections), FALSE_ALARM, np.int64)
    for part in parts_of(record, detections, iou_threshold):
        hit = _match_part(part.record, part.detections, iou_threshold)
        result[part.found] = hit
        result[part.found[hit >= 0]] = part.objects[hit[hit >= 0]]
    return result


def _match_part(record: Record, detections: Instances, iou_threshold: float) -> Int64:
    truth = record.targets
    same_class = detections.labels[:, None] == truth.labels
    result = _in_score_order(np.where(same_class & ~truth.ignored, iou(record, detections), 0), iou_threshold)
    # an ignored box may stand for many objects, so it only matters whether the detection lies in it
    ignored = replace(record, targets=truth.select(truth.ignored))
    inside = share_inside(ignored, detections) >= iou_threshold
    on_ignored = (inside & same_class[:, truth.ignored]).any(axis=1)
    return np.where((result == FALSE_ALARM) & on_ignored, NOT_COUNTED, result)


@dataclass(frozen=True)
class Outcome:
    """What became of one image's objects and of its detections above a score.

    Attributes:
        detections: the K detections above it.
        object_of: (K,) index of the object that each stands for, maybe of another class,
            :data:`FALSE_ALARM` or :data:`NOT_COUNTED`.
        right: (K,) whether it is of the object's class.
        missed: (M,) the objects that no detection stands for; ignored ones are not missed.

    """

    detections: Instances
    object_of: Int64
    right: Bool
    missed: Bool

    @property
    def hits(self) -> int:
        """Objects found with their class."""
        return int(self.right.sum())

    @property
    def mistaken(self) -> int:
        """Objects taken for another class: each is a missed object and a false positive."""
        return int((self.object_of >= 0).sum()) - self.hits

    @property
    def false_positives(self) -> int:
        """Detections where no object is."""
        return int((self.object_of == FALSE_ALARM).sum())

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall; None where there is no object and nothing was found."""
        wrong = self.false_positives + int(self.missed.sum()) + 2 * self.mistaken
        return 2 * self.hits / (2 * self.hits + wrong) if self.hits or wrong else None


def outcome(
    record: Record,
    detections: Instances,
    matches: Int64,
    *,
    score_threshold: float,
    iou_threshold: float = IOU_THRESHOLD,
) -> Outcome:
    """Count only detections of a score, and see which of those left lie on an object of another class.

    Args:
        record: the ground truth.
        detections: in the record's pixels, best score first.
        matches: what :func:`match` says of them.
        score_threshold: of the detections that count.
        iou_threshold: from this on a detection stands for an object.

    """
    truth, confident = record.targets, detections.select(detections.scores >= score_threshold)
    object_of = matches[: len(confident)].copy()
    right = object_of >= 0
    free_objects = ~truth.ignored
    free_objects[object_of[right]] = False
    false_positives, objects = np.flatnonzero(object_of == FALSE_ALARM), np.flatnonzero(free_objects)
    if len(false_positives) and len(objects):
        others = replace(record, targets=truth.select(objects))
        for part in parts_of(others, _precise(confident.select(false_positives)), iou_threshold):
            overlap = np.asarray(iou(part.record, part.detections), np.float64)
            other = _in_score_order(overlap, iou_threshold)
            hits = other >= 0
            object_of[false_positives[part.found[hits]]] = objects[part.objects[other[hits]]]
    missed = ~truth.ignored
    missed[object_of[object_of >= 0]] = False
    return Outcome(confident, object_of, right, missed)


def confusion_matrix(pairs: Iterable[tuple[Record, Outcome]], num_classes: int) -> Int64:
    """How often which class was taken for which.

    Returns:
        (C + 1, C + 1) rows are the true classes, columns the found ones; the last of each is the background:
        the last column counts missed objects, the last row false positives.

    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for record, one in pairs:
        counted = one.object_of != NOT_COUNTED
        # the label of FALSE_ALARM, index -1, is the background
        true = np.append(record.targets.labels, num_classes)[one.object_of[counted]]
        np.add.at(matrix, (true, one.detections.labels[counted]), 1)
        matrix[:-1, num_classes] += np.bincount(record.targets.labels[one.missed], minlength=num_classes)
    return matrix


def _precise(detections: Instances) -> Instances:
    """With boxes in double precision, as pycocotools compares them."""
    boxes: Any = detections.boxes.astype(np.float64)
    return replace(detections, boxes=boxes)


def _in_score_order(iou_NM: Float64, threshold: float) -> Int64:
    """Each row takes its best free column, the first row first; -1 where none reaches the threshold.

    All rows ask at once for the best column that has not refused them; of several, a column keeps the first.
    What it refuses, it refuses for good, so this ends where going row by row would.
    """
    count = len(iou_NM)
    wanted = np.where(iou_NM >= min(threshold, 1 - 1e-10), iou_NM, 0)
    if not wanted.size:
        return np.full(count, FALSE_ALARM, np.int64)
    rows = np.arange(count)
    while True:
        choice = wanted.argmax(axis=1)
        asks = wanted[rows, choice] > 0
        keeps = np.full(wanted.shape[1], count)
        np.minimum.at(keeps, choice[asks], rows[asks])
        refused = asks & (keeps[choice] != rows)
        if not refused.any():
            return np.where(asks, choice, FALSE_ALARM)
        wanted[rows[refused], choice[refused]] = 0
