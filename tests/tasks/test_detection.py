from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_hyperparameters import BUILTIN
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.evaluation.coco import FIGURES
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.instances import Instances
from tilewise.targets import Targets
from tilewise.tasks.detection.false_positives import false_positives
from tilewise.tasks.registry import make_task

METRICS: dict[str, Any] = {name: number / 100 for number, name in enumerate(FIGURES, start=1)}
METRICS["VOC"] = {"mAP": 0.5}


def scores(**given: object) -> list[tuple[str, float]]:
    return list(make_task(parse_hyperparameters(given)).scores(METRICS).items())


@pytest.mark.parametrize("figure", FIGURES)
def test_scores__the_last_one_chooses(figure: str) -> None:
    expected = [("mAP", 0.5), (figure, METRICS[figure])]
    assert scores(primary_metric=figure) == expected


def test_scores__the_map_without_a_choice() -> None:
    assert scores() == scores(primary_metric="MeanAveragePrecision") == [("mAP", 0.5)]
    assert scores(validation_metric_type="coco") == [("mAP", METRICS["AP"])]
    both = scores(validation_metric_type="Coco", primary_metric="AR")
    assert both == [("mAP", METRICS["AP"]), ("AR", METRICS["AR"])]


def test_scores__undefined_ones_choose_nothing() -> None:
    task = make_task(parse_hyperparameters({"primary_metric": "AR_large"}))
    with pytest.raises(UserError, match="primary_metric=AR_large: the validation images have no object of"):
        task.scores({**METRICS, "AR_large": None})
    nothing = {**dict.fromkeys(FIGURES), "VOC": {"mAP": 0.0}}
    assert task.scores(nothing) == {"mAP": 0, "AR_large": 0}  # there is no object at all


def records(side: float, ignored: bool = False) -> Records:
    boxes = np.array([[0, 0, side, side]], np.float32)
    return Records(
        [Record("a", Path("a"), 99, 99, Targets(boxes, np.zeros(1, np.int64), np.array([ignored])))]
    )


@pytest.mark.parametrize(
    ("figure", "side", "defined"),
    [
        ("AP_very_tiny", 7, True),
        ("AP_very_tiny", 8, True),
        ("AP_very_tiny", 9, False),
        ("AP_small", 7, True),
        ("AR_small", 33, False),
        ("AP_medium", 32, True),
        ("AR_large", 95, False),
        ("AR_large", 96, True),
        ("AP", 1, True),
        ("AP50", 1, True),
    ],
)
def test_check_validation__needs_objects_of_the_size(figure: str, side: float, defined: bool) -> None:
    task = make_task(parse_hyperparameters({"primary_metric": figure}))
    if defined:
        task.check_validation(records(side))
    else:
        with pytest.raises(UserError, match=f"primary_metric={figure}: the validation images have no object"):
            task.check_validation(records(side))
    if "_" in figure:
        with pytest.raises(UserError):
            task.check_validation(records(side, ignored=True))


@pytest.mark.parametrize(("given", "points"), [({}, "all"), (BUILTIN, "11")])
def test_voc__is_that_of_the_dialect(given: dict[str, object], points: str) -> None:
    assert make_task(parse_hyperparameters(given)).voc.points == points  # type: ignore[attr-defined]


def test_false_positives__are_not_what_lies_in_a_crowd() -> None:
    targets: Targets[Any] = Targets(
        np.array([[0, 0, 100, 100], [200, 200, 220, 220]], np.float32),
        np.zeros(2, np.int64),
        np.array([True, False]),
    )
    record = Record("a", Path("a.jpg"), 400, 400, targets)
    boxes = np.array([[10, 10, 20, 20], [200, 200, 221, 220], [300, 300, 310, 310]], np.float32)
    found = Instances(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64))
    assert false_positives(found, record).tolist() == [[300, 300, 310, 310]]
