from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made_instances import make_instances
from tilewise.data.channel_table import SIZE_NAMES
from tilewise.data.records import Record, Records
from tilewise.evaluation.analysis import Scored, analyse
from tilewise.evaluation.coco import coco_metrics, score
from tilewise.evaluation.curves import Curve, ap_by_size
from tilewise.targets import Targets

CLASSES = ("ant", "bee", "cat")


@pytest.mark.parametrize("seed", range(4))
def test_precision__is_pycocotools_own(seed: int, random_scored: Callable[[int], Scored]) -> None:
    scored = random_scored(seed)
    analysis = analyse(scored, CLASSES, sizes=False)
    evaluation = score(scored.records, scored.detections, CLASSES, {"all": (0.0, 1e10)})
    theirs = evaluation.eval["precision"][0, :, :, 0, 0]
    assert 0.1 < theirs[:, 0].mean() < 0.95
    for label in (0, 1):
        assert analysis.by_class[label].precision == pytest.approx(theirs[:, label], abs=1e-12)
    assert analysis.by_class[2].precision is None  # there is none to find
    assert (theirs[:, 2] == -1).all()
    rows = analysis.class_rows()
    metrics = coco_metrics(scored.records, scored.detections, CLASSES)
    assert np.mean([rows["ant"]["AP50"], rows["bee"]["AP50"]]) == pytest.approx(metrics["AP50"], abs=1e-6)


def test_precision__of_a_small_case() -> None:
    curve = Curve(4, np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    assert curve.precision is not None
    # up to recall 1/4 all are right; up to 2/4 two of three; the other two objects are never found
    assert curve.precision[[0, 25, 26, 50, 51, 100]] == pytest.approx([1, 1, 2 / 3, 2 / 3, 0, 0])


def test_best_score__is_where_f1_is_best() -> None:
    hits = np.array([True, True, False, False])
    curve = Curve(2, np.array([0.9, 0.8, 0.4, 0.2]), hits)
    assert curve.f1.max() == 1
    assert 0.4 < curve.best_score <= 0.8
    assert curve.best_score == 0.61  # in the middle of 0.41 to 0.80
    assert curve.f1[[0, 19, 20, 39, 40, 79, 80, 98]] == pytest.approx(
        [4 / 6, 4 / 6, 4 / 5, 4 / 5, 1, 1, 2 / 3, 0]
    )


@pytest.mark.parametrize(("objects", "scores"), [(0, []), (0, [0.9]), (3, [])])
def test_curve__of_nothing(objects: int, scores: list[float]) -> None:
    curve = Curve(objects, np.array(scores), np.zeros(len(scores), np.bool_))
    assert 0 < curve.best_score < 1
    assert not curve.f1.any()
    assert (curve.precision is None) == (objects == 0)
    assert curve.precision is None or not curve.precision.any()


@pytest.mark.parametrize("seed", range(2))
def test_ap_by_size__is_that_of_pycocotools(seed: int, random_scored: Callable[[int], Scored]) -> None:
    scored = random_scored(seed)
    by_size = ap_by_size(scored.records, scored.detections, CLASSES)
    assert list(by_size) == list(SIZE_NAMES)
    metrics = coco_metrics(scored.records, scored.detections, CLASSES)
    assert by_size["medium, 32 to 96"]["AP"] == metrics["AP_medium"]
    assert by_size["large, ≥ 96"]["AP"] == metrics["AP_large"]
    assert sum(row["objects"] for row in by_size.values()) == int((~scored.records.targets.ignored).sum())
    values = [row["AP"] for row in by_size.values()]
    assert values[0] < values[-1]  # the same pixels beside their place matter more to small ones


def test_ap_by_size__finds_only_one_size() -> None:
    sides = [4.0, 12.0, 20.0, 50.0, 200.0]
    boxes = np.array([[300 * i, 0, 300 * i + side, side] for i, side in enumerate(sides)], np.float32)
    record = Record("a", Path("a"), 2000, 300, Targets(boxes, np.zeros(5, np.int64), np.zeros(5, np.bool_)))
    found = make_instances(
        torch.from_numpy(boxes[1:2]), torch.tensor([0.9]), torch.zeros(1, dtype=torch.int64)
    )
    by_size = ap_by_size(Records([record]), [found], ("ant",))
    assert [row["AP"] for row in by_size.values()] == [0, 1, 0, 0, 0]
    assert [row["objects"] for row in by_size.values()] == [1] * 5
    nothing = make_instances([], [], [])
    empty = Record("a", Path("a"), 9, 9, Targets(boxes[:0], np.zeros(0, np.int64), np.zeros(0, np.bool_)))
    by_size = ap_by_size(Records([empty]), [nothing], ("ant",))
    assert [(row["AP"], row["objects"]) for row in by_size.values()] == [(None, 0)] * 5
