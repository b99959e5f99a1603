from __future__ import annotations

import math

import pytest
import torch
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.training.step.lr_scheduler import LRScheduler, learning_rate_factor


def factors(steps: int, steps_per_epoch: int, **given: object) -> list[float]:
    hp = parse_hyperparameters(given)
    factor = learning_rate_factor(hp, steps_per_epoch)
    return [factor(step) for step in range(steps)]


def test_warmup_cosine__rises_then_follows_the_cosine() -> None:
    # two epochs of two steps to warm up, then four of the six epochs; a full half turn
    found = factors(12, 2, number_of_epochs=6, warmup_cosine_lr_warmup_epochs=2, warmup_cosine_lr_cycles=0.5)
    turn = [(1 + math.cos(math.pi * progress / 8)) / 2 for progress in range(8)]
    assert found == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, *turn])
    assert found[4] == 1
    assert found[8] == pytest.approx(0.5)


def test_warmup_cosine__ends_above_zero_by_default() -> None:
    found = factors(16, 1, number_of_epochs=15)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found[15] == pytest.approx((1 + math.cos(0.9 * math.pi)) / 2)


def test_warmup_cosine__all_of_a_short_job_warms_up() -> None:
    assert factors(3, 3, number_of_epochs=1) == pytest.approx([1 / 7, 2 / 7, 3 / 7])


def test_warmup_cosine__without_warmup_begins_at_the_top() -> None:
    # one epoch of four steps, half a turn: else a job of one epoch would only warm up
    found = factors(4, 4, number_of_epochs=1, warmup_cosine_lr_warmup_epochs=0, warmup_cosine_lr_cycles=0.5)
    assert found == pytest.approx([(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)])


def test_warmup_cosine__zero_cycles_are_constant() -> None:
    found = factors(6, 1, number_of_epochs=6, warmup_cosine_lr_warmup_epochs=1, warmup_cosine_lr_cycles=0)
    assert found == [0.5, 1, 1, 1, 1, 1]


def test_step__every_so_many_epochs() -> None:
    found = factors(10, 2, learning_rate_scheduler="step", step_lr_step_size=2, step_lr_gamma=0.5)
    assert found == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


BUILT_IN = {"num_training_samples": 8, "num_classes": 1}


def test_lr_scheduler_step__drops_at_the_epochs_named() -> None:
    found = factors(10, 2, lr_scheduler_step="1, 3", lr_scheduler_factor=0.1, **BUILT_IN)
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])


def test_lr_scheduler_step__empty_is_constant() -> None:
    assert factors(100, 1, lr_scheduler_step="", **BUILT_IN) == [1] * 100


def rates(steps_of_epochs: list[int], expected: int, **given: object) -> list[list[float]]:
    """The learning rates of all steps, of a highest one of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = LRScheduler(optimizer, parse_hyperparameters(given), expected)
    found: list[list[float]] = []
    for steps in steps_of_epochs:
        found.append([])
        for _ in range(steps):
            found[-1].append(optimizer.param_groups[0]["lr"])
            scheduler.step()
        scheduler.end_epoch()
    return found


def test_scheduler__is_the_factor_where_the_expected_steps_come() -> None:
    given: dict[str, object] = {"number_of_epochs": 4, "warmup_cosine_lr_warmup_epochs": 1}
    found = rates([3, 3, 3, 3], 3, **given)
    assert [rate for epoch in found for rate in epoch] == pytest.approx(factors(12, 3, **given))


@pytest.mark.parametrize("expected", [1, 2, 4, 1000])
def test_scheduler__a_wrong_number_of_steps_moves_no_drop(expected: int) -> None:
    found = rates([4, 4, 4, 4], expected, lr_scheduler_step="1,3", lr_scheduler_factor=0.1, **BUILT_IN)
    assert found[0] == [1] * 4
    assert found[1] == found[2] == pytest.approx([0.1] * 4)
    assert found[3] == pytest.approx([0.01] * 4)


def test_scheduler__after_the_first_epoch_it_is_right() -> None:
    given: dict[str, object] = {"number_of_epochs": 4, "warmup_cosine_lr_warmup_epochs": 2}
    right, wrong = (rates([5] * 4, expected, **given) for expected in (5, 50))
    assert wrong[0] != pytest.approx(right[0])
    assert wrong[1:] == [pytest.approx(epoch) for epoch in right[1:]]


def test_scheduler__an_epoch_without_a_step() -> None:
    assert rates([2, 0, 2], 2, learning_rate_scheduler="step", step_lr_step_size=1, step_lr_gamma=0.5) == [
        [1, 1],
        [],
        [0.25, 0.25],
    ]


def test_warmup_steps__in_place_of_epochs_with_either_scheduler() -> None:
    cosine = factors(8, 4, number_of_epochs=2, warmup_steps=3, warmup_cosine_lr_cycles=0.5)
    assert cosine[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])
    step = factors(
        6, 2, learning_rate_scheduler="step", step_lr_step_size=2, step_lr_gamma=0.1, warmup_steps=3
    )
    assert step == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 0.1, 0.1])
    with pytest.raises(UserError, match="disagree: give one of them"):
        factors(1, 1, warmup_steps=3, warmup_cosine_lr_warmup_epochs=1)
