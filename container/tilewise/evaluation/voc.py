"""Pascal VOC's mean average precision, as SageMaker's built-in algorithm and as Azure AutoML compute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tilewise.arrays import Floats, Int64
from tilewise.data.records import Record, Records
from tilewise.evaluation.overlap import iou
from tilewise.evaluation.parts import parts_of
from tilewise.instances import Instances


@dataclass(frozen=True)
class VocMetric:
    """How VOC's figures are computed.

    Attributes:
        iou_threshold: a detection is a hit where its IoU exceeds this.
        points: at which recalls the precision is averaged: at 0, 0.1, …, 1 (``11``, VOC 2007's way and
            mxnet-ssd's, whose figure the built-in Object Detection logs), or at each (``all``, the area under
            the curve: VOC 2010's way and Azure AutoML's).

    """

    iou_threshold: float = 0.5
    points: Literal["11", "all"] = "11"


def voc_metrics(
    records: Records,
    detections: Sequence[Instances],
    classes: Sequence[str],
    *,
    metric: VocMetric = VocMetric(),  # it is frozen
) -> dict[str, float | dict[str, float | None]]:
    """Average precision at one IoU.

    Of an image and class, detections take in score order the object of highest IoU: a hit where the IoU
    exceeds the threshold (strictly) and the object is not taken, else a false alarm. Ignored objects are
    neither. A class counts in the mean when it occurs among the objects or the detections. Unlike in
    mxnet-ssd, false positives in images without objects count too.

    Args:
        records: the ground truth.
        detections: one a record, in its pixels, best score first.
        classes: names by label.
        metric: see there.

    Returns:
        ``mAP``, and ``AP_class`` by name (None for a class that does not occur).

    """
    scores: list[list[np.ndarray]] = [[] for _ in classes]
    hits: list[list[np.ndarray]] = [[] for _ in classes]
    objects = np.bincount(records.targets.labels[~records.targets.ignored], minlength=len(classes))
    for record, instances in zip(records, detections, strict=True):
        hit = _hits(record, instances, metric.iou_threshold)
        for label in np.unique(instances.labels).tolist():
            counted = (instances.labels == label) & (hit >= 0)
            scores[label].append(instances.scores[counted])
            hits[label].append(hit[counted])
    by_class: dict[str, float | None] = {}
    for label, name in enumerate(classes):
        one_scores, one_hits = np.concatenate([[], *scores[label]]), np.concatenate([[], *hits[label]])
        occurs = objects[label] > 0 or len(one_scores)
        by_class[name] = (
            _average_precision(one_scores, one_hits, int(objects[label]), metric) if occurs else None
        )
    known = [value for value in by_class.values() if value is not None]
    return {"mAP": float(np.mean(known)) if known else 0.0, "AP_class": by_class}


def _hits(record: Record, instances: Instances, iou_threshold: float) -> Int64:
    """(N,) for each detection of an image 1 for a hit, 0 for a false alarm, -1 where it does not count."""
    result = np.zeros(len(instances), np.int64)
    for part in parts_of(record, instances, iou_threshold):
        truth, labels = part.record.targets, part.detections.labels
        overlap = iou(part.record, part.detections)
        for label in np.intersect1d(truth.labels, labels).tolist():
            own, mine = truth.labels == label, labels == label
            hit = _match(overlap[mine][:, own], truth.ignored[own], iou_threshold)
            result[part.found[mine]] = hit
    return result


def _match(iou_NM: Floats, ignored: np.ndarray, iou_threshold: float) -> np.ndarray:
    """For each detection 1 for a hit, 0 for a false alarm, -1 where it does not count."""
    result = np.zeros(len(iou_NM), dtype=np.int64)
    if not iou_NM.size:
        return result
    best, which = iou_NM.max(axis=1), iou_NM.argmax(axis=1)
    claimed = np.zeros(iou_NM.shape[1], dtype=np.bool_)
    for row, (value, index) in enumerate(zip(best.tolist(), which.tolist(), strict=True)):
        if value <= iou_threshold:
            continue
        if ignored[index]:
            result[row] = -1
        elif not claimed[index]:
            claimed[index] = True
            result[row] = 1
    return result


def _average_precision(scores: np.ndarray, hits: np.ndarray, objects: int, metric: VocMetric) -> float:
    """The mean, over the recalls of the metric, of the best precision at that recall or a higher one."""
    if not objects or not len(scores):
        return 0.0
    hits = hits[np.argsort(-scores, kind="stable")]
    true = np.cumsum(hits)
    recall, precision = true / objects, true / np.arange(1, len(hits) + 1)
    if metric.points == "all":
        best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
        return float(best_beyond @ np.diff(recall, prepend=0.0))
    levels = np.linspace(0, 1, 11)
    # recall is a quotient of whole numbers: a level that it meets exactly must not be lost to rounding
    best = [precision[recall >= level - 1e-9].max(initial=0.0) for level in levels]
    return float(np.mean(best))
