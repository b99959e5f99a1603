"""Images are evaluated in parts as they are as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from made_records import make_record
from tilewise.data.records import Records
from tilewise.evaluation import parts
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.coco import coco_metrics
from tilewise.evaluation.confusion import match, outcome
from tilewise.evaluation.parts import part_numbers, parts_of
from tilewise.evaluation.voc import VocMetric, voc_metrics
from tilewise.instances import Instances

CLASSES = ("ant", "bee", "cat")


def in_small_parts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parts, "MANY", -1)
    patch.setattr(parts, "PART", 2)


def figures(records: Records, detections: Sequence[Instances]) -> list[Any]:
    found: list[Any] = [coco_metrics(records, detections, CLASSES)]
    for threshold in (0.3, 0.5, 0.75):
        for points in ("11", "all"):
            found.append(voc_metrics(records, detections, CLASSES, metric=VocMetric(threshold, points)))
        for record, instances in zip(records, detections, strict=True):
            matches = match(record, instances, threshold)
            one = outcome(record, instances, matches, score_threshold=0.3, iou_threshold=threshold)
            found.append((matches.tolist(), one.object_of.tolist(), one.right.tolist(), one.missed.tolist()))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_figures__are_those_of_whole_images(
    random_scored: Callable[[int], Scored], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    case = random_scored(seed)
    detections = [each.select(np.argsort(-each.scores, kind="stable")) for each in case.detections]
    whole = figures(case.records, detections)
    in_small_parts(monkeypatch)
    taken_apart = sum(
        len(list(parts_of(record, instances, 0.5)))
        for record, instances in zip(case.records, detections, strict=True)
    )
    assert taken_apart > 2 * len(case.records)
    assert figures(case.records, detections) == whole


def test_part_numbers__a_crowd_keeps_what_lies_in_it_and_others_go_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_small_parts(monkeypatch)
    monkeypatch.setattr(parts, "PART", 1)
    truth = [[0, 0, 100, 100], [200, 0, 210, 10], [300, 0, 310, 10]]
    record = make_record([list(map(float, box)) for box in truth], [0, 0, 0], [1, 0, 0])
    boxes = np.array([[5, 5, 12, 12], [95, 5, 104, 12], [201, 0, 211, 10], [306, 0, 316, 10]], np.float32)
    found = Instances(boxes, np.linspace(0.9, 0.6, 4, dtype=np.float32), np.zeros(4, np.int64))
    numbers = part_numbers(record, found, 0.5)
    in_crowd, half_in_crowd, near, beside = numbers[:4].tolist()
    crowd, first, second = numbers[4:].tolist()
    assert in_crowd == half_in_crowd == crowd
    assert near == first
    assert len({crowd, first, second, beside}) == 4


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7])
def test_match__of_detections_that_reach_into_a_crowd(
    monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    record = make_record([[0.0, 0.0, 256.0, 256.0]], [0], [1])
    inside = np.arange(0, 21, dtype=np.float32)  # of 20 px
    boxes = np.stack([256 - inside, 10 * inside, 276 - inside, 10 * inside + 20], axis=1)
    found = Instances(boxes, np.linspace(0.9, 0.5, 21, dtype=np.float32), np.zeros(21, np.int64))
    whole = match(record, found, threshold).tolist()
    assert len(set(whole)) == 2
    in_small_parts(monkeypatch)
    assert match(record, found, threshold).tolist() == whole


def test_parts_of__a_hundred_thousand_in_one_image_need_no_matrix() -> None:
    places = np.array([(x, y) for x in range(0, 3800, 12) for y in range(0, 3800, 12)], np.float32)
    boxes = np.concatenate([places, places + 8], axis=1)
    record = make_record(boxes.tolist(), [0] * len(boxes))
    instances = Instances(boxes + 1, np.ones(len(boxes), np.float32), np.zeros(len(boxes), np.int64))
    several = list(parts_of(record, instances, 0.5))
    assert max(len(part.found) * len(part.objects) for part in several) < 10**6
    assert sorted(np.concatenate([part.found for part in several]).tolist()) == list(range(len(boxes)))
    assert (match(record, instances) == np.arange(len(boxes))).all()
