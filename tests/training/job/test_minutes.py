from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import make_hp, make_job
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.training.job.minutes import LOADING, VALIDATION, VALIDATIONS, plan_epochs


def planned(minutes: float, train: int, validation: int, speed: float, **more: object) -> Hyperparameters:
    job = make_job(make_hp(minutes=minutes, **more), Path("model"))
    return plan_epochs(job, train, validation, pixels_per_second=speed).hp


def seconds_of(hp: Hyperparameters, train: int, validation: int, speed: float) -> float:
    validations = math.ceil(hp.number_of_epochs / hp.evaluation_frequency)
    return (hp.number_of_epochs * LOADING * train + validations * VALIDATION * validation) / speed


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
    hp = planned(minutes, train, validation, speed, **more)
    seconds = seconds_of(hp, train, validation, speed)
    epoch = (LOADING * train + VALIDATION * validation) / speed
    assert hp.number_of_epochs >= 1
    assert seconds <= 60 * minutes + VALIDATION * validation / speed + 1e-6 or hp.number_of_epochs == 1
    # no more than an epoch, and validations that were not needed, is left
    assert seconds + epoch + VALIDATIONS * VALIDATION * validation / speed >= 60 * minutes * (1 - 1e-9)
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
    hp = planned(epochs + 0.5, 60_000, 0, 1000 * LOADING)
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
        (30_000, 60, 1, 1, 0),
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
    whole_epoch = LOADING * images / 10 + VALIDATION * images / 100
    assert ("holds no whole epoch" in caplog.text) == (whole_epoch > 60 * minutes)
