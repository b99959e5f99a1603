"""How much a label of an image would teach a detector: the core of active learning. Without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewise.arrays import Float64
from tilewise.boxes import paired_iou
from tilewise.instances import Instances

LOWEST_SCORE = 0.05
"""Detections below it count for nothing: there are very many, and most are of nothing."""

IOU = 0.5
"""From this on two detections are of the same object."""


def score_entropy(found: Instances) -> float:
    """How unsure a detector is of an image: the sum of its scores' binary entropies, in bits.

    A score of 0.5 counts 1, one of 0 or 1 nothing. Source: Brust et al., Active Learning for Deep Object
    Detection (2018), whose best way to put an image's detections together is their sum.
    """
    scores = found.scores[found.scores >= LOWEST_SCORE].astype(np.float64).clip(1e-12, 1 - 1e-12)
    return float(-(scores * np.log2(scores) + (1 - scores) * np.log2(1 - scores)).sum())


def disagreement(one: Instances, other: Instances) -> float:
    """How differently an image is seen in two ways, such as by tiles and as a whole; from 0 to 1.

    Each detection loses what the best one of its class at its place, in the other way, scores less or more.
    The result is what is lost of all scores, 0 where nothing is found.
    """
    one, other = (found.select(found.scores >= LOWEST_SCORE) for found in (one, other))
    total = float(one.scores.sum() + other.scores.sum())
    return (_lost(one, other) + _lost(other, one)) / total if total else 0.0


def _lost(found: Instances, others: Instances) -> float:
    lost = 0.0
    for box, score, label in found:
        same = others.select(others.labels == label)
        near = paired_iou(np.asarray([box]), same.boxes.astype(np.float64)) >= IOU
        best = float(same.scores[near].max(initial=0.0))
        lost += abs(score - best) if best < score else 0.0
    return lost


def most_informative_first(measures: Sequence[Sequence[float]]) -> list[int]:
    """Indices of images, by the mean of their places in each measure; equal ones keep their order.

    Args:
        measures: one value an image each, of which higher ones teach more.

    """
    places = np.mean([_places(np.asarray(values, np.float64)) for values in measures], axis=0)
    order: list[int] = np.argsort(places, kind="stable").tolist()
    return order


def _places(values: Float64) -> Float64:
    """The place of each in falling order, from 0; equal ones share the mean of theirs."""
    above = (values[None, :] > values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    places: Float64 = above + (equal - 1) / 2
    return places
