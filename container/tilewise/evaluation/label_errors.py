"""Which labels of annotated images a model contradicts.

After Tkachenko et al. 2023, "ObjectLab: Automated Diagnosis of Mislabeled Images in Object Detection Data":
overlooked, swapped and badly located objects, and boxes without one, ranked together by their suspicion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tilewise.arrays import Bool, Float32, Float64, Int64
from tilewise.boxes import mostly_inside, object_size, paired_iou
from tilewise.data.records import Record, Records
from tilewise.evaluation.parts import ROUNDING
from tilewise.fields import Rows
from tilewise.instances import Instances
from tilewise.tiling.merge import merge_detections
from tilewise.tiling.neighbours import near_pairs

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
    near = [_Near.of(record, found) for record, found in zip(records, detections, strict=True)]
    usual = _usual_scores(records, [each.best(each.iou >= SAME_PLACE) for each in near])
    errors: list[LabelError] = []
    first = 0
    for index, (record, found) in enumerate(zip(records, detections, strict=True)):
        of_image = usual[first : first + len(record.targets)]
        errors += _of_boxes(index, record, found, near[index], of_image)
        errors += _without_box(index, record, found, near[index])
        first += len(of_image)
    return sorted(errors, key=lambda error: -error.suspicion)


@dataclass(frozen=True)
class _Near:
    """Detections beside the object that each overlaps most, where they may be of one; by object, best first.

    Attributes:
        found: (P,) indices of detections; one that overlaps two objects alike stands there twice.
        objects: (P,) indices of objects.
        iou: (P,) of both.
        scores: (P,) of the detections.
        count: of the image's objects.

    """

    found: Int64
    objects: Int64
    iou: Float64
    scores: Float32
    count: int

    @classmethod
    def of(cls, record: Record, detections: Instances) -> _Near:
        """Those of one image."""
        count, objects = len(detections), len(record.targets)
        boxes = np.concatenate([detections.boxes, record.targets.boxes]).astype(np.float64)
        none = np.zeros(len(boxes), np.bool_)
        pairs = [np.zeros((2, 0), np.int64)]
        for pair in near_pairs(boxes, none.astype(np.int64), NEARBY - ROUNDING, reaching_N=none):
            low, high = np.minimum(*pair), np.maximum(*pair)
            pairs.append(np.stack([low, high])[:, (low < count) & (high >= count)])
        found, object_ = np.concatenate(pairs, axis=1)
        iou = paired_iou(boxes[found], boxes[object_])
        best = np.full(count, NEARBY)
        np.maximum.at(best, found, iou)
        chosen = np.flatnonzero(iou >= best[found])
        order = chosen[np.lexsort((found[chosen], object_[chosen]))]
        found, object_ = found[order], object_[order] - count
        return cls(found, object_, iou[order], detections.scores[found], objects)

    def best(self, which_P: Bool) -> Float64:
        """(M,) the best score of the detections that are chosen beside each object; 0 where none is."""
        scores = np.zeros(self.count)
        np.maximum.at(scores, self.objects[which_P], self.scores[which_P])
        return scores

    def first(self, number: int, which_P: Bool) -> int | None:
        """The best of an object's chosen pairs; None where it has none."""
        start, end = np.searchsorted(self.objects, [number, number + 1])
        chosen = np.flatnonzero(which_P[start:end])
        return int(start + chosen[0]) if len(chosen) else None


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
    index: int, record: Record, found: Instances, near: _Near, usual_M: Float64
) -> list[LabelError]:
    """The likely errors of what is annotated: at most one of each box."""
    truth, errors = record.targets, []
    there, anywhere = near.iou >= SAME_PLACE, near.iou >= NEARBY
    own = found.labels[near.found] == truth.labels[near.objects]
    as_own, reached = near.best(there & own), near.best(anywhere)
    for number in np.flatnonzero(~truth.ignored).tolist():
        candidates: list[tuple[float, Kind, int | None]] = [(0.0, "nothing there", None)]
        if reached[number] < usual_M[number] / 2:
            candidates = [(float(usual_M[number] - reached[number]), "nothing there", None)]
        if (first := near.first(number, there & ~own)) is not None:
            candidates.append((float(near.scores[first] - as_own[number]), "other class", first))
        nearby = near.first(number, anywhere)
        if nearby is not None and near.first(number, there) is None:
            candidates.append((float(near.scores[nearby] * (1 - near.iou[nearby])), "other place", nearby))
        suspicion, kind, of = max(candidates, key=lambda candidate: candidate[0])
        if suspicion > 0:
            box, label = truth.boxes[number].astype(np.float64), int(truth.labels[number])
            error = LabelError(index, kind, suspicion, box, label, score=float(reached[number]))
            errors.append(error if of is None else _with(error, found, int(near.found[of])))
    return errors


def _with(error: LabelError, found: Instances, number: int) -> LabelError:
    box = found.boxes[number].astype(np.float64)
    return replace(error, found=box, found_label=int(found.labels[number]), score=float(found.scores[number]))


def _without_box(index: int, record: Record, found: Instances, near: _Near) -> list[LabelError]:
    """What was found where nothing is annotated, each once."""
    alone = np.setdiff1d(np.arange(len(found)), near.found)
    ignored = record.targets.boxes[record.targets.ignored]  # a crowd, say, which stands for many objects
    alone = alone[~mostly_inside(found.boxes[alone], ignored)]
    number, whole = np.arange(len(alone)), np.zeros((len(alone), 4), np.bool_)
    of_one_class = Instances(
        found.boxes[alone], found.scores[alone], np.zeros_like(alone), {"of": Rows(alone)}
    )
    once = merge_detections(of_one_class, number, whole, rule="nms", threshold=NEARBY)
    kept = cast(Rows, once.fields["of"]).values.tolist()
    return [_with(LabelError(index, "no box", float(found.scores[of])), found, of) for of in kept]
