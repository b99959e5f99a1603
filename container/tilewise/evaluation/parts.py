"""Parts of an image whose detections have nothing to do with the objects of the others.

To compare all detections of an image with all of its objects takes the product of their numbers: 80 GB for
100,000 of each. What does not overlap enough need not be compared, and what is left falls apart into groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tilewise.arrays import Int64
from tilewise.boxes import Size, area, intersection_and_union
from tilewise.data.records import Record, Records
from tilewise.instances import Instances
from tilewise.masks import MASKS
from tilewise.tiling.neighbours import near_pairs

MANY = 500_000
"""Images with more pairs of a detection and an object are taken apart."""

ROUNDING = 1e-6
"""Overlaps that so nearly reach a threshold count: pairs too many are no harm."""

PART = 400
"""About so many detections and objects come into one part."""


class Part(NamedTuple):
    """A part of an image.

    Attributes:
        found: (n,) the indices of its detections in the image's, in order.
        objects: (m,) the indices of its objects.
        record: with these objects.
        detections: these.

    """

    found: Int64
    objects: Int64
    record: Record
    detections: Instances


def parts_of(record: Record, detections: Instances, iou_threshold: float) -> Iterator[Part]:
    """The parts of an image; most images are one.

    What lies in different parts has a smaller IoU than the threshold, of masks where the objects have some,
    and no such share of a detection lies in an ignored object of another part.
    """
    part_of, count = part_numbers(record, detections, iou_threshold), len(detections)
    if not part_of.any():
        yield Part(np.arange(count), np.arange(len(record.targets)), record, detections)
        return
    order = part_of.argsort(kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(part_of[order])) + 1):
        found, objects = members[members < count], members[members >= count] - count
        targets = record.targets.select(objects)
        yield Part(found, objects, replace(record, targets=targets), detections.select(found))


def part_numbers(record: Record, detections: Instances, iou_threshold: float) -> Int64:
    """(N + M,) the number of the part of each of N detections and then M objects, from 0 on."""
    found, objects = len(detections), len(record.targets)
    if found * objects <= MANY:
        return np.zeros(found + objects, np.int64)
    pairs = list(_touching(record, detections, iou_threshold))
    group_of = _connected(found + objects, pairs)
    sizes = np.bincount(group_of)
    part_of: Int64 = ((np.cumsum(sizes) - sizes) // PART)[group_of]
    numbers: Int64 = np.unique(part_of, return_inverse=True)[1]
    return numbers


def _connected(count: int, pairs: Sequence[tuple[Int64, Int64]]) -> Int64:
    """(N,) the least number of the group of each of N things, of which these pairs are connected."""
    nothing = np.zeros(0, np.int64)
    first, second = (np.concatenate([nothing, *(pair[end] for pair in pairs)]) for end in (0, 1))
    least = np.arange(count)
    while True:
        of_pair = np.minimum(least[first], least[second])
        lower = least.copy()
        np.minimum.at(lower, first, of_pair)
        np.minimum.at(lower, second, of_pair)
        lower = lower[lower]  # as far as the one that it has just heard of
        if np.array_equal(lower, least):
            return least
        least = lower


def _touching(record: Record, detections: Instances, iou_threshold: float) -> Iterator[tuple[Int64, Int64]]:
    """Pairs of a detection and an object, counted on from the detections, that belong into one part."""
    found, truth = len(detections), record.targets
    boxes = np.concatenate([detections.boxes, truth.boxes]).astype(np.float64)
    threshold = 0.0 if MASKS in truth.fields else iou_threshold
    any_ignored = bool(truth.ignored.any())
    # near_pairs finds what holds more than half of a detection; for less it is to find all that overlap
    nearest = 0.0 if any_ignored and threshold < 0.5 else max(0.0, threshold - ROUNDING)
    reaching = np.arange(len(boxes)) < (found if any_ignored else 0)
    for pair in near_pairs(boxes, np.zeros(len(boxes), np.int64), nearest, reaching_N=reaching):
        low, high = np.minimum(*pair), np.maximum(*pair)
        low, high = (each[(low < found) & (high >= found)] for each in (low, high))
        shared, united = intersection_and_union(boxes[low], boxes[high])
        of_what = np.where(truth.ignored[high - found], area(boxes[low]), united)
        touches = (shared > 0) & (shared >= (threshold - ROUNDING) * of_what)
        yield low[touches], high[touches]


def image_numbers(
    records: Records, detections: Sequence[Instances], iou_threshold: float
) -> tuple[Int64, Int64, list[Size]]:
    """Parts as images of their own, from 0 on.

    Returns:
        (N,) the image of each detection, (M,) that of each object, and each image's width and height.

    """
    of_found: list[Int64] = []
    of_truth: list[Int64] = []
    sizes: list[Size] = []
    for record, instances in zip(records, detections, strict=True):
        numbers = len(sizes) + part_numbers(record, instances, iou_threshold)
        of_found.append(numbers[: len(instances)])
        of_truth.append(numbers[len(instances) :])
        parts = int(numbers.max(initial=len(sizes))) + 1 - len(sizes)
        sizes += [(record.width, record.height)] * parts
    nothing = np.zeros(0, np.int64)
    return np.concatenate([nothing, *of_found]), np.concatenate([nothing, *of_truth]), sizes
