"""Which labels of annotated images a model contradicts.

After Tkachenko et al. 2023, "ObjectLab: Automated Diagnosis of Mislabeled Images in Object Detection Data":
overlooked, swapped and badly located objects, and boxes without one, ranked together by their suspicion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tilewise.arrays import Bool, Float64
from tilewise.boxes import object_size, paired_iou
from tilewise.data.records import Record, Records
from tilewise.instances import Instances

Kind = Literal["no box", "nothing there", "other class", "other place"]
"""A detection without a box; a box that nothing was found in; found as another class; found nearby."""

SAME_PLACE = 0.5
"""From this IoU on a detection and a box say the same of where an object is."""

NEARBY = 0.2
"""From this IoU on they may be of one object."""

ALIKE = 50
"""So many objects next in size say how sure the model usually is of one."""

BLOCK = 10_000
"""Medians of so many objects are found at once: a few megabytes."""


@dataclass(frozen=True)
class LabelError:
    """What is likely wrong with one label.

    Attributes:
        record: index of the image.
        kind: see :data:`Kind`.
        suspicion: 0..1: by how much the model is surer of its own than of the label.
        box: (4,) the annotated one, in pixels of the image; None where there is none.
        label: of the annotated box; None where there is none.
        found: (4,) what the model has found instead; None where it has found nothing.
        found_label: its class.
        score: its score; of a box with nothing in it the best score there.

    """

    record: int
    kind: Kind
    suspicion: float
    box: Float64 | None = None
    label: int | None = None
    found: Float64 | None = None
    found_label: int | None = None
    score: float = 0.0


def label_errors(records: Records, detections: Sequence[Instances]) -> list[LabelError]:
    """The likely errors of all images, the most suspicious first.

    A box with nothing in it is as suspicious as the model usually is sure of an object of that size: objects
    that it seldom finds are not errors for it.

    Args:
        records: the images with their labels; ignored ones are not suspected.
        detections: one a record, best score first, with low scores, too.

    """
    overlaps = [_overlaps(record, found) for record, found in zip(records, detections, strict=True)]
    best = [_best(found, each >= SAME_PLACE) for found, each in zip(detections, overlaps, strict=True)]
    usual = _usual_scores(records, best)
    errors: list[LabelError] = []
    first = 0
    for index, (record, found) in enumerate(zip(records, detections, strict=True)):
        of_image = usual[first : first + len(record.targets)]
        errors += _of_boxes(index, record, found, overlaps[index], of_image)
        errors += _without_box(index, found, overlaps[index])
        first += len(of_image)
    return sorted(errors, key=lambda error: -error.suspicion)


def _overlaps(record: Record, found: Instances) -> Float64:
    """IoU of detections and objects (N, M), where the object is the detection's best; else 0."""
    boxes = found.boxes.astype(np.float64)
    overlaps = paired_iou(boxes[:, None], record.targets.boxes.astype(np.float64))
    best = overlaps == overlaps.max(axis=1, initial=0, keepdims=True)
    return np.where(best, overlaps, 0)


def _best(found: Instances, which_NM: Bool) -> Float64:
    """(M,) the best score of the detections that are chosen for each object."""
    scores: Float64 = np.where(which_NM, found.scores[:, None], 0).max(axis=0, initial=0)
    return scores


def _usual_scores(records: Records, best: Sequence[Float64]) -> Float64:
    """(M,) for each object of all images the median of the best scores of those next in size."""
    sizes = np.concatenate([np.zeros(0), *(object_size(record.targets.boxes) for record in records)])
    scores = np.concatenate([np.zeros(0), *best])
    if not len(scores):
        return scores
    order = np.argsort(sizes, kind="stable")
    alike = sliding_window_view(scores[order], min(ALIKE, len(scores)))
    blocks = np.array_split(alike, -(-len(alike) // BLOCK))
    medians = np.concatenate([np.median(block, axis=1) for block in blocks])
    first = np.clip(np.arange(len(order)) - ALIKE // 2, 0, len(alike) - 1)
    usual = np.empty(len(scores))
    usual[order] = medians[first]
    return usual


def _of_boxes(
    index: int, record: Record, found: Instances, overlaps_NM: Float64, usual_M: Float64
) -> list[LabelError]:
    """The likely errors of what is annotated: at most one of each box."""
    truth, errors = record.targets, []
    there, near = overlaps_NM >= SAME_PLACE, overlaps_NM >= NEARBY
    own = found.labels[:, None] == truth.labels
    as_own, reached = _best(found, there & own), _best(found, near)
    for number in np.flatnonzero(~truth.ignored).tolist():
        candidates: list[tuple[float, Kind, int | None]] = [(0.0, "nothing there", None)]
        if reached[number] < usual_M[number] / 2:
            candidates = [(float(usual_M[number] - reached[number]), "nothing there", None)]
        if (as_other := there[:, number] & ~own[:, number]).any():
            first = int(as_other.argmax())  # the best: they are in the order of their scores
            candidates.append((float(found.scores[first] - as_own[number]), "other class", first))
        if near[:, number].any() and not there[:, number].any():
            first = int(near[:, number].argmax())
            doubt = float(found.scores[first]) * (1 - float(overlaps_NM[first, number]))
            candidates.append((doubt, "other place", first))
        suspicion, kind, of = max(candidates, key=lambda candidate: candidate[0])
        if suspicion > 0:
            box, label = truth.boxes[number].astype(np.float64), int(truth.labels[number])
            error = LabelError(index, kind, suspicion, box, label, score=float(reached[number]))
            errors.append(error if of is None else _with(error, found, of))
    return errors


def _with(error: LabelError, found: Instances, number: int) -> LabelError:
    box = found.boxes[number].astype(np.float64)
    return replace(error, found=box, found_label=int(found.labels[number]), score=float(found.scores[number]))


def _without_box(index: int, found: Instances, overlaps_NM: Float64) -> list[LabelError]:
    """What was found where nothing is annotated, each once."""
    errors: list[LabelError] = []
    taken = np.zeros((0, 4))
    for number in np.flatnonzero(overlaps_NM.max(axis=1, initial=0) < NEARBY).tolist():  # best score first
        box = found.boxes[number].astype(np.float64)
        if not (paired_iou(box, taken) >= NEARBY).any():
            taken = np.concatenate([taken, box[None]])
            errors.append(_with(LabelError(index, "no box", float(found.scores[number])), found, number))
    return errors
