from __future__ import annotations

import pytest
from tilewise.training.job.early_stopping import BestScore


def run(scores: list[float], patience: int | None, delay: int = 1, tolerance: float = 0) -> tuple[int, float]:
    """How many epochs are done when it stops, and the best score then; an evaluation an epoch."""
    best = BestScore(patience, delay, tolerance)
    for epochs, score in enumerate(scores, start=1):
        best.update(score)
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
    assert [best.update(score) for score in (0.0, 0.2, 0.21, 0.21, 0.1, 0.3)] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
