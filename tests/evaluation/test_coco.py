from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from made_instances import make_instances
from made_records import make_record
from reference_coco import pycocotools_evaluation
from tilewise.data.channel_table import SIZE_NAMES
from tilewise.data.records import Records
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.coco import (
    FIGURES,
    accumulate,
    coco_metrics,
)
from tilewise.hyperparameters.values import PrimaryMetric
from tilewise.instances import Instances

CLASSES = ("ant", "bee", "cat")


def make_detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Instances:
    return make_instances(
        torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels).long()
    )


NOTHING = make_detections([], [], [])


def random_case(seed: int, images: int = 12) -> tuple[Records, list[Instances]]:
    """Objects of all sizes, some of them crowds; most are found, somewhat beside their place."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for _ in range(images):
        count = int(rng.integers(8))
        corners = rng.uniform(0, 400, (count, 2))
        boxes = np.concatenate([corners, corners + rng.choice([10, 50, 150], (count, 1))], axis=1)
        labels = rng.integers(2, size=count)
        ignored = rng.random(count) < 0.15
        records.append(make_record(boxes.tolist(), labels.tolist(), ignored.tolist()))
        found = np.concatenate([boxes, boxes, boxes[:, [1, 0, 3, 2]]])
        found += rng.normal(0, 3, found.shape)
        scores = rng.random(len(found))
        order = np.argsort(-scores)
        found_labels = np.where(
            rng.random(len(found)) < 0.8, np.tile(labels, 3), rng.integers(3, size=len(found))
        )
        detections.append(
            make_detections(found[order].tolist(), scores[order].tolist(), found_labels[order].tolist())
        )
    return Records(records), detections


def pycocotools_stats(records: Records, detections: list[Instances]) -> list[float]:
    return [float(value) for value in pycocotools_evaluation(records, detections, CLASSES).stats]


@pytest.mark.parametrize("seed", range(4))
def test_metrics__are_pycocotools_own(seed: int) -> None:
    records, detections = random_case(seed)
    assert max(map(len, detections)) <= 100
    ours = coco_metrics(records, detections, CLASSES)
    stats = pycocotools_stats(records, detections)
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    assert [ours[name] for name in names] == pytest.approx(stats[:6], abs=1e-6)
    recalls = ("AR", "AR_small", "AR_medium", "AR_large")
    assert [ours[name] for name in recalls] == pytest.approx(stats[8:], abs=1e-6)
    assert 0.05 < ours["AP"] < ours["AR"] < 0.95


@pytest.mark.parametrize("seed", range(2))
def test_accumulate__is_pycocotools_own_to_the_last_digit(
    seed: int, random_scored: Callable[[int], Scored]
) -> None:
    scored = random_scored(seed)
    ranges = {"all": (0.0, 1e10), "very_tiny": (0.0, 64.0), "tiny": (64.0, 256.0)}
    evaluation = pycocotools_evaluation(scored.records, scored.detections, CLASSES, ranges)
    ours = accumulate(scored.records, scored.detections, CLASSES, ranges=ranges)
    for name in ("precision", "recall"):
        assert ours[name] == pytest.approx(evaluation.eval[name], abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_metrics__by_size_and_iou_agree_with_the_means(
    seed: int, random_scored: Callable[[int], Scored]
) -> None:
    scored = random_scored(seed)
    metrics = coco_metrics(scored.records, scored.detections, CLASSES)
    by_size = metrics["AP_by_size"]
    assert list(by_size) == list(SIZE_NAMES)
    assert by_size["very tiny, < 8"]["AP"] == metrics["AP_very_tiny"]
    assert by_size["medium, 32 to 96"]["AP"] == metrics["AP_medium"]
    assert by_size["large, ≥ 96"]["AP"] == metrics["AP_large"]
    assert sum(row["objects"] for row in by_size.values()) == int((~scored.records.targets.ignored).sum())
    values = [row["AP"] for row in by_size.values()]
    assert values[0] < values[-1]  # the same pixels beside their place matter more to small ones
    curves = metrics["recall_by_IoU"]
    assert list(curves) == ["all", "small", "medium", "large"]
    for size, curve in curves.items():
        assert curve == sorted(curve, reverse=True)
        name = "AR" if size == "all" else f"AR_{size}"
        assert np.mean(curve) == pytest.approx(metrics[name], abs=1e-6)


def test_metrics__find_only_one_size() -> None:
    sides = [4.0, 12.0, 20.0, 50.0, 200.0]
    boxes = [[300 * i, 0, 300 * i + side, side] for i, side in enumerate(sides)]
    found = make_detections(boxes[1:2], [0.9], [0])
    metrics = coco_metrics(Records([make_record(boxes, [0] * 5)]), [found], ("ant",))
    assert [row["AP"] for row in metrics["AP_by_size"].values()] == [0, 1, 0, 0, 0]
    assert [row["objects"] for row in metrics["AP_by_size"].values()] == [1] * 5
    assert (metrics["AP_very_tiny"], metrics["AR_small"], metrics["AR_large"]) == (0, pytest.approx(1 / 3), 0)
    empty = coco_metrics(Records([make_record([], [])]), [NOTHING], ("ant",))
    assert [(row["AP"], row["objects"]) for row in empty["AP_by_size"].values()] == [(None, 0)] * 5
    assert empty["recall_by_IoU"]["all"] == [None] * 10


def test_figures__are_the_choices_of_primary_metric() -> None:
    choices = get_args(PrimaryMetric)  # those of classification follow
    assert choices[: len(FIGURES) + 1] == ("mean_average_precision", *FIGURES)


def test_metrics__of_classes_average_to_the_whole() -> None:
    metrics = coco_metrics(*random_case(0), CLASSES)
    by_class = metrics["AP_class"]
    assert list(by_class) == list(CLASSES)
    assert by_class["cat"] is None  # found, but there is none to find
    assert metrics["AP"] == pytest.approx((by_class["ant"] + by_class["bee"]) / 2, abs=1e-6)


def test_metrics__count_more_than_100_detections_an_image() -> None:
    corners = [[x * 20.0, y * 20.0] for x in range(15) for y in range(10)]
    boxes = [[x, y, x + 10, y + 10] for x, y in corners]
    records = Records([make_record(boxes, [0] * 150)])
    found = make_detections(boxes, np.linspace(1, 0.5, 150).tolist(), [0] * 150)
    metrics = coco_metrics(records, [found], CLASSES)
    assert (metrics["AP"], metrics["AR"]) == (1, 1)
    assert pycocotools_stats(records, [found])[0] < 0.7


def test_metrics__of_3000_objects_in_one_image() -> None:
    """All are found, and 800 false alarms have lower scores: with pycocotools this takes minutes."""
    boxes = [[number % 150 * 4.0, number // 150 * 4.0] for number in range(3000)]
    boxes = [[x, y, x + 3, y + 3] for x, y in boxes]
    away = [[x, y + 200, x1, y1 + 200] for x, y, x1, y1 in boxes[:800]]
    found = make_detections([*boxes, *away], np.linspace(1, 0.1, 3800).tolist(), [0] * 3800)
    metrics = coco_metrics(Records([make_record(boxes, [0] * 3000)]), [found], ("car",))
    assert [metrics[name] for name in ("AP", "AP_very_tiny", "AP_small", "AR", "AR_small")] == [1] * 5
    assert metrics["AP_by_size"]["very tiny, < 8"] == {"objects": 3000, "AP": 1, "AP50": 1}


def test_metrics__are_none_where_there_is_no_object() -> None:
    small = [10.0, 10, 20, 20]
    metrics = coco_metrics(
        Records([make_record([small], [0])]), [make_detections([small], [0.9], [0])], CLASSES
    )
    assert (metrics["AP"], metrics["AP_small"]) == (1, 1)
    assert metrics["AP_medium"] is metrics["AP_large"] is metrics["AP_class"]["bee"] is None


def test_metrics__no_object_at_all() -> None:
    records = Records([make_record([], [])])
    for found in (NOTHING, make_detections([[1, 1, 9, 9]], [0.9], [0])):
        metrics = coco_metrics(records, [found], CLASSES)
        assert metrics["AP"] is metrics["AR"] is None


def test_metrics__nothing_found() -> None:
    records = Records([make_record([[10, 10, 20, 20]], [0]), make_record([], [])])
    metrics = coco_metrics(records, [NOTHING, NOTHING], CLASSES)
    assert (metrics["AP"], metrics["AP50"], metrics["AR"]) == (0, 0, 0)


def test_metrics__no_image() -> None:
    assert coco_metrics(Records([]), [], CLASSES)["AP"] is None


def test_metrics__a_crowd_is_neither_missed_nor_a_false_positive() -> None:
    records = Records([make_record([[10, 10, 30, 30], [100, 100, 300, 300]], [0, 0], [0, 1])])
    members = [[110.0, 110, 130, 130], [200.0, 200, 220, 220]]
    found = make_detections([*members, [10, 10, 30, 30]], [0.9, 0.8, 0.7], [0, 0, 0])
    assert coco_metrics(records, [found], CLASSES)["AP"] == 1


def test_metrics__print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    coco_metrics(*random_case(0), CLASSES)
    assert not capsys.readouterr().out
