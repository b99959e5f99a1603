"""Non-maximum suppression: one implementation for training's validation and for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from tilewise.arrays import Array, Float32, Float64, Int64
from tilewise.fields import Field
from tilewise.instances import Instances

BLOCK = 64
"""Boxes that are compared with each other at once, and then with all that follow."""


class Limits(NamedTuple):
    """What is kept: scores above a threshold, so many candidates before suppression, so many boxes after."""

    score_threshold: float
    nms_iou_threshold: float
    candidates: int
    detections: int


def suppress(
    boxes_K4: Float32,
    scores_K: Float32,
    labels_K: Int64,
    *,
    limits: Limits,
    fields: Mapping[str, Field] = MappingProxyType({}),
) -> Instances:
    """Non-maximum suppression within the classes of one view.

    As torchvision's ``batched_nms``: best score first, a box removes the later ones of its class whose IoU
    with it is above the threshold. It ends with the last box that is asked for. Classes are moved apart, in
    double precision, in which coordinates stay exact.

    Args:
        boxes_K4: candidates, in pixels of the view and cut at its border.
        scores_K: of them, in any order; of equal ones the first goes before.
        labels_K: their 0-based classes.
        limits: what is kept; the number of candidates is not looked at.
        fields: more of the candidates, which what is left keeps.

    Returns:
        What is left, best first.

    """
    passed = np.flatnonzero(scores_K > limits.score_threshold)
    order = passed[np.argsort(-scores_K[passed], kind="stable")]
    boxes: Float64 = boxes_K4[order].astype(np.float64)
    boxes += labels_K[order, None] * (2 * boxes.max(initial=0.0) + 1)
    kept: list[Int64] = []
    count, left = 0, np.arange(len(order))
    while len(left) and count < limits.detections:
        block = _free_of_each_other(boxes[left[:BLOCK]], limits.nms_iou_threshold)
        chosen, left = left[:BLOCK][block], left[BLOCK:]
        kept.append(chosen)
        count += len(chosen)
        overlaps = _iou(boxes[chosen], boxes[left]) > limits.nms_iou_threshold
        left = left[~overlaps.any(axis=0)]
    best = order[np.concatenate([order[:0], *kept])[: limits.detections]]
    kept_fields = {name: each.select(best) for name, each in fields.items()}
    return Instances(boxes_K4[best], scores_K[best], labels_K[best], kept_fields)


def _free_of_each_other(boxes_N4: Float64, threshold: float) -> Array:
    """Which of a few boxes remain, best first, where each removes the later ones that it overlaps: (N,)."""
    overlaps = np.triu(_iou(boxes_N4, boxes_N4) > threshold, 1)
    free = np.ones(len(boxes_N4), np.bool_)
    for row in np.flatnonzero(overlaps.any(axis=1)).tolist():
        if free[row]:
            free &= ~overlaps[row]
    return free


def _iou(boxes_N4: Float64, others_M4: Float64) -> Float64:
    """All with all: (N, M). Of boxes without area it is 0."""
    left, top, right, bottom = boxes_N4.T[:, :, None]
    others_left, others_top, others_right, others_bottom = others_M4.T
    across = np.minimum(right, others_right) - np.maximum(left, others_left)
    down = np.minimum(bottom, others_bottom) - np.maximum(top, others_top)
    shared = across.clip(min=0) * down.clip(min=0)
    united = (
        (right - left) * (bottom - top) + (others_right - others_left) * (others_bottom - others_top) - shared
    )
    iou: Float64 = shared / np.maximum(united, 1e-12)
    return iou
