from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from raw_hyperparameters import BUILTIN
from stand_ins import make_job
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.models.spec import DetectorSpec
from tilewise.training.job.best_model import BestModel
from tilewise.training.job.early_stopping import BestScore
from tilewise.training.step.train_step import TrainStep
from tilewise.views.view import Scaling


def run(
    scores: list[float],
    patience: int | None,
    delay: int = 1,
    tolerance: float = 0,
    waits_first: bool = False,
) -> tuple[int, float]:
    """How many epochs are done when it stops, and the best score then; an evaluation an epoch."""
    best = BestScore(patience, delay, tolerance, waits_first=waits_first)
    for epochs, score in enumerate(scores, start=1):
        best.update(score, epochs)
        if best.should_stop(epochs):
            return epochs, best.best
    return len(scores), best.best


@pytest.mark.parametrize(
    ("scores", "stops_after"),
    [
        ([0.1, 0.2, 0.3, 0.4], 4),
        ([0.5, 0.4, 0.3, 0.6], 3),
        ([0.5, 0.4, 0.6, 0.5, 0.5, 0.9], 5),
        ([0.5, 0.5, 0.5, 0.9], 3),
        ([0, 0, 0, 0], 3),
        ([0, 0, 1e-9, 0], 4),
    ],
    ids=["rising", "falling", "counts anew", "ties", "nothing", "something"],
)
def test_stops__after_patience_without_an_improvement(scores: list[float], stops_after: int) -> None:
    assert run(scores, patience=2)[0] == stops_after


def test_stops__never_before_the_delay() -> None:
    assert run([0.5, 0.4, 0.3, 0.2, 0.1, 0.9], patience=2, delay=5)[0] == 5
    assert run([0.5, 0.4, 0.3, 0.2, 0.6, 0.5, 0.5, 0.9], patience=2, delay=5)[0] == 7


def test_stops__as_azure_after_delay_and_patience_at_the_earliest() -> None:
    falling = [0.5, *[0.4] * 20]
    assert run(falling, patience=5, delay=5, waits_first=True)[0] == 10
    assert run(falling, patience=5, delay=5)[0] == 6
    assert run(falling, patience=2, delay=1, waits_first=True)[0] == 3
    # an improvement within the delay is what is to be beaten, one after it counts anew
    assert run([0.1, 0.5, *[0.4] * 20], patience=3, delay=4, waits_first=True) == (7, 0.5)
    assert run([0.5, 0.4, 0.4, 0.6, *[0.4] * 20], patience=3, delay=2, waits_first=True) == (7, 0.6)


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        ({}, 10),
        ({"early_stopping_delay": 3, "early_stopping_patience": 2}, 5),
        (BUILTIN | {"early_stopping": "True", "early_stopping_min_epochs": 6}, 6),
    ],
)
def test_stops__by_the_dialect_of_the_job(given: dict[str, object], epochs: int, tmp_path: Path) -> None:
    hp = parse_hyperparameters(given)
    spec = DetectorSpec("ssd_vgg16", 1, Scaling(square=300), None, 0.5, 0.5, 100)
    score = BestModel(make_job(hp, tmp_path), spec, ("dot",), train_step=cast(TrainStep, None)).score
    done = 0
    while not score.should_stop(done):
        score.update(1.0 - done, done + 1)
        done += 1
    assert done == epochs


def test_stops__never_without_patience() -> None:
    assert run([0.5, *[0.0] * 50], patience=None) == (51, 0.5)


def test_tolerance__is_a_share_of_the_last_score_that_counted() -> None:
    # 0.5 to 0.54 is 8 %, and 0.5 to 0.56 is 12 %
    assert run([0.5, 0.54, 0.54, 0.9], patience=2, tolerance=0.1) == (3, 0.54)
    assert run([0.5, 0.54, 0.56, 0.57, 0.9], patience=2, tolerance=0.1) == (5, 0.9)
    assert run([0.5, 0.54, 0.56, 0.57, 0.58, 0.9], patience=2, tolerance=0.1) == (5, 0.58)


def test_tolerance__met_exactly_is_an_improvement() -> None:
    assert run([0.5, 0.4, 0.75, 0.6, 0.9], patience=2, tolerance=0.5)[0] == 5
    assert run([0.5, 0.5, 0.5, 0.9], patience=2, tolerance=0)[0] == 3


def test_update__says_which_score_is_the_best() -> None:
    best = BestScore(None, 1, 0.5)
    # whatever the tolerance, a better model is worth keeping
    assert [best.update(score, 1) for score in (0.0, 0.2, 0.21, 0.21, 0.1, 0.3)] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
