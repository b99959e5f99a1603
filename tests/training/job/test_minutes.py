from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import make_hp, make_job
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.training.dataloading.epoch_loader import EpochLoader
from tilewise.training.history import History, Progress
from tilewise.training.job.minutes import (
    LOADING,
    MOST,
    VALIDATION,
    VALIDATIONS,
    Pace,
    Work,
    plan_epochs,
    with_larger_tiles,
)
from tilewise.training.step.lr_scheduler import LRScheduler


def planned(minutes: float, train: int, validation: int, speed: float, **more: object) -> Hyperparameters:
    return plan(minutes, train, validation, speed, **more)[0]


def plan(
    minutes: float, train: int, validation: int, speed: float, **more: object
) -> tuple[Hyperparameters, float]:
    job = make_job(make_hp(minutes=minutes, **more), Path("model"))
    job, share = plan_epochs(job, Work(train, validation), pixels_per_second=speed)
    return job.hp, share


def seconds_of(hp: Hyperparameters, share: float, train: int, validation: int, speed: float) -> float:
    validations = math.ceil(hp.number_of_epochs / hp.evaluation_frequency)
    return (LOADING * (hp.number_of_epochs * share * train + validations * VALIDATION * validation)) / speed


@given(
    st.floats(0.1, 1000),
    st.integers(10**4, 10**10),
    st.integers(0, 10**10),
    st.floats(10**4, 10**9),
    st.sampled_from([{}, {"evaluation_frequency": 3}]),
)
def test_plan__fills_the_minutes(
    minutes: float, train: int, validation: int, speed: float, more: dict[str, object]
) -> None:
    hp, share = plan(minutes, train, validation, speed, **more)
    seconds = seconds_of(hp, share, train, validation, speed)
    once = LOADING * VALIDATION * validation / speed
    assert hp.number_of_epochs >= 1
    assert 0 < share <= 1
    assert seconds <= (60 * minutes + once) * (1 + 1e-9)
    # validations that are not needed take up to five times as long; with long ones epochs are not cut
    if 0 < share < 1 and not more:
        assert seconds == pytest.approx(60 * minutes) or (once > 30 * minutes and seconds > 60 * minutes)
    elif not validation:
        assert seconds >= MOST * 60 * minutes * (1 - 1e-9)
    if not more:
        assert math.ceil(hp.number_of_epochs / hp.evaluation_frequency) <= VALIDATIONS


def test_plan__what_the_user_chose_stays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hp = planned(10, 1000, 0, 1000 * LOADING, evaluation_frequency=7, warmup_cosine_lr_warmup_epochs=1)
    assert (hp.number_of_epochs, hp.evaluation_frequency, hp.warmup_cosine_lr_warmup_epochs) == (600, 7, 1)
    assert "minutes=10: number_of_epochs=600, some 10.0 minutes" in caplog.text
    hp = planned(10, 1000, 0, 1000 * LOADING)
    assert (hp.evaluation_frequency, hp.warmup_cosine_lr_warmup_epochs) == (120, 50)


@pytest.mark.parametrize(("epochs", "warm_up"), [(1, 0), (3, 0), (4, 1), (18, 2), (60, 5)])
def test_plan__few_epochs_have_no_warm_up(epochs: int, warm_up: int) -> None:
    """A rate that only rises teaches little."""
    hp = planned(epochs + 0.01, 60_000, 0, 1000 * LOADING)
    assert (hp.number_of_epochs, hp.warmup_cosine_lr_warmup_epochs) == (epochs, warm_up)


def test_minutes__and_epochs_disagree() -> None:
    with pytest.raises(UserError, match=r"epochs=3 and minutes=20 disagree: give one of them"):
        make_hp(epochs=3, minutes=20)
    with pytest.raises(UserError, match="minutes=0: must be greater than 0"):
        make_hp(minutes=0)


@pytest.mark.parametrize(
    ("images", "minutes", "epochs", "validations", "warm_up"),
    [
        (30, 5, 95, 5, 8),
        (300, 20, 37, 5, 3),
        (3_000, 60, 11, 4, 1),
        (30_000, 5, 1, 1, 0),
        (30_000, 60, 2, 2, 0),
        (30_000, 100, 2, 2, 0),
        (30_000, 600, 11, 4, 1),
    ],
)
def test_plan__of_30_images_and_of_30_000(
    images: int, minutes: int, epochs: int, validations: int, warm_up: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A tenth is validated, and ten images are learnt from in a second."""
    pixels = 320**2
    hp = planned(minutes, images * pixels, images // 10 * pixels, 10 * pixels)
    assert hp.number_of_epochs == epochs
    assert math.ceil(epochs / hp.evaluation_frequency) == validations
    assert hp.warmup_cosine_lr_warmup_epochs == warm_up
    whole_epoch = LOADING * (images / 10 + VALIDATION * images / 100)
    assert ("holds no whole epoch" in caplog.text) == (whole_epoch > 60 * minutes)


@pytest.mark.parametrize(
    ("epochs", "objects", "size"),
    [
        *((20, 10_000, None), (8, 10_000, None), (6, 10_000, 27.7), (3, 10_000, 19.6), (0.1, 10_000, 16)),
        *((25, 1000, None), (20, 1000, 28.6), (8, 1000, 18.1), (8, 0, 16), (50, 0, None)),
    ],
)
def test_tiles__are_larger_where_few_epochs_would_fit_or_few_objects_be_seen(
    epochs: float, objects: int, size: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    second = 10**6
    hp = make_hp(minutes=epochs / 60 * LOADING * (1 + 1e-9))
    work = Work(second, 0)
    hp = with_larger_tiles(hp, work, objects=objects, shown=32, resolves=32, pixels_per_second=second)
    assert hp.smallest_object == size
    told = f"holds {epochs:.1f} epochs of tiles that show three quarters of the objects from 32 px on"
    assert (told in caplog.text) == (size is not None)


@pytest.mark.parametrize(("shown", "size"), [(16.1, None), (18.7, 9.3)])
def test_tiles__of_scenes_show_half_of_what_the_model_resolves_and_stay(
    shown: float, size: float | None
) -> None:
    hp, second = make_hp(minutes=0.01), 10**6
    hp = with_larger_tiles(hp, Work(second, 0), objects=1, shown=shown, resolves=32, pixels_per_second=second)
    assert hp.smallest_object == size


@pytest.mark.parametrize(
    ("minutes", "epochs", "share", "said"),
    [
        (0.4, 1, 0.4, "number_of_epochs=1 with 40 % of the batches, some 0.4 minutes"),
        (1.04, 1, 1.0, "number_of_epochs=1, some 1.0 minutes"),
        (1.1, 2, 0.55, "number_of_epochs=2 with 55 % of the batches, some 1.1 minutes"),
        (1.9, 2, 0.95, "number_of_epochs=2 with 95 % of the batches, some 1.9 minutes"),
        (3.1, 3, 1.0, "number_of_epochs=3, some 3.0 minutes"),
        (7.3, 7, 1.0, "number_of_epochs=7, some 7.0 minutes"),
        (7.9, 8, 0.9875, "number_of_epochs=8 with 99 % of the batches, some 7.9 minutes"),
    ],
)
def test_plan__epochs_are_cut_where_whole_ones_would_leave_much_of_the_time(
    minutes: float, epochs: int, share: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hp, found = plan(minutes, 60_000, 0, 1000 * LOADING)
    assert hp.number_of_epochs == epochs
    assert found == pytest.approx(share)
    assert said in caplog.text


class SomeBatches:
    """In place of a DataLoader: an epoch of so many batches."""

    def __init__(self, count: int):
        self.count = count
        self.batch_sampler = SimpleNamespace(epoch=0, start=0)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.batch_sampler.start, self.count))


class Training:
    """A job of a minute, whose epochs have 200 steps of a view of 100 pixels, without validations.

    Args:
        trial: seconds of a step as the trial had them.

    """

    STEPS = 200

    def __init__(self, trial: float, **more: object):
        job = make_job(make_hp(minutes=1, **more), Path("model"))
        work = Work(100 * self.STEPS, 0)
        self.job, share = plan_epochs(job, work, pixels_per_second=100 * LOADING / trial)
        source: Any = SimpleNamespace(known_length=True, supports_random_access=True)
        batches: Any = SomeBatches(self.STEPS)
        self.loader = EpochLoader(source, batches)
        self.loader.share = share
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        self.scheduler = LRScheduler(optimizer, self.job.hp, self.loader.expected_batches(1))
        self.optimizer, self.now, self.progress = optimizer, 0.0, Progress()
        self.pace = Pace(
            self.job,
            self.loader,
            self.scheduler,
            history=History(self.progress),
            work=work,
            clock=lambda: self.now,
        )

    def run(self, step: Callable[[float], float]) -> list[float]:
        """Train with steps of so many seconds by the time; returns the learning rates of all steps."""
        rates = []
        while self.progress.epoch < self.job.hp.number_of_epochs:
            self.pace.begin_epoch()
            for _ in self.loader.batches(self.progress.epoch):
                rates.append(self.optimizer.param_groups[0]["lr"])
                self.now += step(self.now)
                self.progress.pixels += 100
                self.progress.batches += 1
                self.scheduler.step()
                self.pace.step(100)
            self.scheduler.end_epoch()
            self.progress.next_epoch()
        return rates


@pytest.mark.parametrize("trial", [0.01, 0.1, 0.2, 0.25, 1.0])
@pytest.mark.parametrize("step", [0.015, 0.04, 0.16, 0.5])
def test_pace__mends_the_trials_error_in_the_first_steps(trial: float, step: float) -> None:
    training = Training(trial)
    rates = training.run(lambda now: step)
    assert 60 * MOST * (1 - Pace.WRONG) <= training.now <= 60 * (1 + Pace.WRONG)
    assert rates[-1] < 0.1 < 0.9 < max(rates)  # it falls to its end, whatever was planned first


@pytest.mark.parametrize("trial", [7.0, 60.0, 600.0])
def test_pace__a_trial_that_was_far_too_slow_does_not_end_the_job(trial: float) -> None:
    """Its plan has fewer steps than come before the first look."""
    training = Training(trial)
    assert (training.loader.known_batches or 0) < Pace.FIRST
    training.run(lambda now: 0.1)
    assert 60 * MOST * (1 - Pace.WRONG) <= training.now <= 60 * (1 + Pace.WRONG)


def test_plan__learns_for_half_of_the_time_where_a_validation_takes_all_of_it() -> None:
    hp, share = plan(1, 600 * 10**4, 10**9, 10**4 * LOADING)
    assert hp.number_of_epochs == 1 and share == pytest.approx(30 / 600)


def test_pace__what_is_right_stays(caplog: pytest.LogCaptureFixture) -> None:
    training = Training(0.05)
    before = training.job.hp
    training.run(lambda now: 0.05 * (1.05 if int(now) % 2 else 0.95))
    assert training.job.hp is before
    assert training.now == pytest.approx(60, rel=MOST / 10)


@pytest.mark.parametrize("change", [5.0, 20.0, 40.0, 50.0])
def test_pace__ends_in_time_when_other_work_comes(change: float, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    training = Training(0.05)
    training.run(lambda now: 0.05 if now < change else 0.15)
    assert 45 < training.now < 60 * 1.25
    if change < 50:
        assert re.search(
            r"minutes=1: after 0\.\d minutes number_of_epochs=\d+.* by the steps so far", caplog.text
        )


def test_pace__makes_no_job_longer_in_the_second_half() -> None:
    training = Training(0.1)
    epochs, share = training.job.hp.number_of_epochs, training.loader.share
    training.run(lambda now: 0.1 if now < 35 else 0.02)
    assert (training.job.hp.number_of_epochs, training.loader.share) == (epochs, share)


def test_pace__of_a_job_without_minutes_or_resumed_keeps_its_epochs() -> None:
    training = Training(0.1)
    training.pace.work = None
    epochs = training.job.hp.number_of_epochs
    training.run(lambda now: 0.01)
    assert training.job.hp.number_of_epochs == epochs


def test_pace__its_share_is_in_the_checkpoint() -> None:
    training, other = Training(0.75), Training(0.1)
    assert training.loader.known_batches == 80
    other.pace.load_state_dict(training.pace.state_dict())
    assert other.loader.known_batches == 80


def test_pace__a_run_that_goes_on_with_a_number_of_epochs_has_whole_ones() -> None:
    training = Training(1.0)
    training.pace.load_state_dict({"share": 0.4})
    assert training.loader.share == 0.4
    training.pace.job.hp = training.pace.job.hp.model_copy(update={"minutes": None})
    training.pace.load_state_dict({"share": 0.4})
    assert training.loader.share == 1
