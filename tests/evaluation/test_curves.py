from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tilewise.evaluation.analysis import Scored, analyse
from tilewise.evaluation.coco import accumulate, coco_metrics
from tilewise.evaluation.curves import Curve

CLASSES = ("ant", "bee", "cat")


@pytest.mark.parametrize("seed", range(4))
def test_precision__is_pycocotools_own(seed: int, random_scored: Callable[[int], Scored]) -> None:
    scored = random_scored(seed)
    analysis = analyse(scored, CLASSES, {})
    accumulated = accumulate(scored.records, scored.detections, CLASSES, ranges={"all": (0.0, 1e10)})
    theirs = accumulated["precision"][0, :, :, 0, 0]
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


def test_finds__where_a_score_leaves_what_is_right() -> None:
    right = np.array([True, False])
    assert Curve(2, np.array([0.9, 0.8]), right).finds
    assert not Curve(2, np.array([0.009, 0.008]), right).finds, "no threshold from 0.01 on finds anything"
    assert not Curve(2, np.array([0.9, 0.8]), ~right[[0, 0]]).finds


@pytest.mark.parametrize(("objects", "scores"), [(0, []), (0, [0.9]), (3, [])])
def test_curve__of_nothing(objects: int, scores: list[float]) -> None:
    curve = Curve(objects, np.array(scores), np.zeros(len(scores), np.bool_))
    assert 0 < curve.best_score < 1
    assert not curve.f1.any()
    assert (curve.precision is None) == (objects == 0)
    assert curve.precision is None or not curve.precision.any()
