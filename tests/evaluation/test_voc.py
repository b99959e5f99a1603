from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_instances import make_instances
from made_records import make_record
from tilewise.data.records import Record, Records
from tilewise.evaluation.voc import VocMetric, voc_metrics
from tilewise.instances import Instances

CLASSES = ("ant", "bee", "cat")
BOX, BESIDE, AWAY = [0.0, 0, 10, 10], [0.0, 0, 10, 6], [50.0, 50, 60, 60]


def find(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Instances:
    return make_instances(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
    )


def score(record: Record, found: Instances, iou_threshold: float = 0.5) -> Any:
    return voc_metrics(Records([record]), [found], CLASSES, metric=VocMetric(iou_threshold))


def average_precision(record: Record, found: Instances, iou_threshold: float = 0.5) -> Any:
    return score(record, found, iou_threshold)["AP_class"]["ant"]


def test_ap__everything_found() -> None:
    record = make_record([BOX, AWAY], [0, 0])
    assert average_precision(record, find([BOX, AWAY], [0.9, 0.8])) == 1


def test_ap__half_found_meets_six_of_eleven_levels() -> None:
    record = make_record([BOX, AWAY], [0, 0])
    assert average_precision(record, find([BOX], [0.9])) == pytest.approx(6 / 11)


def test_ap__all_points_is_the_area_under_the_curve() -> None:
    record = make_record([BOX, AWAY, [80, 80, 90, 90]], [0, 0, 0])
    # a hit, a false alarm, a hit: precision 1 up to recall 1/3, then 2/3 up to 2/3; the third is never found
    found = find([BOX, [30, 30, 40, 40], AWAY], [0.9, 0.8, 0.7])
    metrics = voc_metrics(Records([record]), [found], CLASSES, metric=VocMetric(points="all"))
    assert metrics["mAP"] == pytest.approx(1 / 3 + 2 / 3 / 3)
    assert voc_metrics(Records([record]), [found], CLASSES)["mAP"] == pytest.approx((4 + 3 * 2 / 3) / 11)


def test_ap__a_false_positive_first_halves_the_precision() -> None:
    record = make_record([BOX], [0])
    assert average_precision(record, find([AWAY, BOX], [0.9, 0.8])) == pytest.approx(1 / 2)
    assert average_precision(record, find([BOX, AWAY], [0.9, 0.8])) == 1


def test_ap__a_second_detection_of_an_object_is_a_false_positive() -> None:
    record = make_record([BOX, AWAY], [0, 0])
    # precision 1 up to recall 0.5, then 2/3
    found = find([BOX, BESIDE, AWAY], [0.9, 0.8, 0.7])
    assert average_precision(record, found) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_ap__the_iou_must_exceed_the_threshold() -> None:
    record = make_record([BOX], [0])
    half = [0.0, 0, 10, 5]
    assert average_precision(record, find([half], [0.9]), iou_threshold=0.5) == 0
    assert average_precision(record, find([half], [0.9]), iou_threshold=0.49) == 1


def test_ap__ignored_objects_are_neither_missed_nor_false_positives() -> None:
    record = make_record([BOX, AWAY], [0, 0], [0, 1])
    assert average_precision(record, find([BOX], [0.9])) == 1
    assert average_precision(record, find([AWAY, AWAY, BOX], [0.95, 0.94, 0.9])) == 1


def test_ap__recall_levels_are_met_exactly() -> None:
    # three of ten objects: recall 0.3 counts, though 3 / 10 < 0.1 * 3 in floating point
    boxes = [[10.0 * i, 0, 10 * i + 8, 8] for i in range(10)]
    found = find(boxes[:3], [0.9, 0.8, 0.7])
    assert average_precision(make_record(boxes, [0] * 10), found) == pytest.approx(4 / 11)


def test_map__a_class_only_in_the_detections_enters_as_zero() -> None:
    metrics = score(make_record([BOX], [0]), find([BOX, AWAY], [0.9, 0.8], [0, 1]))
    assert metrics == {"mAP": 0.5, "AP_class": {"ant": 1, "bee": 0, "cat": None}}


def test_map__a_class_that_is_not_found_enters_as_zero() -> None:
    metrics = score(make_record([BOX, AWAY], [0, 1]), find([BOX], [0.9]))
    assert metrics == {"mAP": 0.5, "AP_class": {"ant": 1, "bee": 0, "cat": None}}


def test_map__classes_do_not_mix() -> None:
    metrics = score(make_record([BOX, BOX], [0, 1]), find([BOX, BOX], [0.9, 0.8], [1, 2]))
    assert metrics["AP_class"] == {"ant": 0, "bee": 1, "cat": 0}


def test_map__a_class_with_only_ignored_objects_does_not_occur() -> None:
    metrics = score(make_record([BOX, AWAY], [0, 1], [0, 1]), find([BOX, AWAY], [0.9, 0.8], [0, 1]))
    assert metrics == {"mAP": 1, "AP_class": {"ant": 1, "bee": None, "cat": None}}


@pytest.mark.parametrize("found", [find([], []), find([BOX, AWAY], [0.9, 0.8])])
def test_map__no_objects_at_all(found: Instances) -> None:
    assert score(make_record([], []), found)["mAP"] == 0


def test_map__no_image() -> None:
    assert voc_metrics(Records([]), [], CLASSES)["mAP"] == 0


def test_map__false_positives_in_an_empty_image_count() -> None:
    records = Records([make_record([BOX], [0]), make_record([], [])])
    metrics = voc_metrics(records, [find([BOX], [0.8]), find([AWAY], [0.9])], CLASSES)
    assert metrics["mAP"] == pytest.approx(0.5)


def iou(one: list[float], other: list[float]) -> float:
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def slow_average_precision(records: list[Record], detections: list[Instances], label: int) -> float | None:
    """One step after the other, as one would explain it."""
    events: list[tuple[float, int]] = []
    objects = 0
    for record, found in zip(records, detections, strict=True):
        boxes = record.targets.boxes[record.targets.labels == label].tolist()
        ignored = record.targets.ignored[record.targets.labels == label].tolist()
        objects += ignored.count(False)
        taken = set()
        for box, value, one in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            if one != label:
                continue
            ious = [iou(box, other) for other in boxes]
            best = int(np.argmax(ious)) if ious else -1
            if best < 0 or ious[best] <= 0.5:
                events.append((value, 0))
            elif not ignored[best]:
                events.append((value, int(best not in taken)))
                taken.add(best)
    if not objects:
        return 0.0 if events else None
    events.sort(key=lambda event: -event[0])
    curve, hits = [], 0
    for count, (_, hit) in enumerate(events, start=1):
        hits += hit
        curve.append((hits, hits / count))
    levels = []
    for tenth in range(11):
        reached = [precision for hits, precision in curve if 10 * hits >= tenth * objects]
        levels.append(max(reached, default=0.0))
    return sum(levels) / 11


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_metrics__equal_a_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for _ in range(4):
        count, extra = int(rng.integers(7)), int(rng.integers(5))
        corners = rng.integers(0, 60, (count + extra, 2))
        boxes = np.concatenate([corners, corners + rng.integers(5, 30, (count + extra, 2))], axis=1)
        labels = rng.integers(3, size=count + extra)
        records.append(
            make_record(boxes[:count].tolist(), labels[:count].tolist(), (rng.random(count) < 0.2).tolist())
        )
        kept = rng.permutation(np.repeat(np.arange(count + extra), 2))[: count + extra]
        found = np.concatenate(
            [boxes[kept, :2], boxes[kept, 2:] + rng.integers(4, size=(len(kept), 2))], axis=1
        )
        scores = np.sort(rng.random(len(kept)).astype(np.float32))[::-1]
        detections.append(find(found.tolist(), scores.tolist(), labels[kept].tolist()))
    metrics = voc_metrics(Records(records), detections, CLASSES)
    expected = [slow_average_precision(records, detections, label) for label in range(3)]
    by_class = metrics["AP_class"]
    assert isinstance(by_class, dict)
    assert list(by_class.values()) == pytest.approx(expected)
    known = [value for value in expected if value is not None]
    assert metrics["mAP"] == pytest.approx(np.mean(known) if known else 0)
