from __future__ import annotations

import pytest
from raw_hyperparameters import BUILTIN, problems
from tilewise.hyperparameters import parse_hyperparameters


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("33, 67", (33, 67)),
        ("20,30", (20, 30)),
        ("10", (10,)),
        ("[5, 6]", (5, 6)),
        ([5, 6], (5, 6)),
        ("", ()),
    ],
)
def test_lr_scheduler_step__forms(text: object, steps: tuple[int, ...]) -> None:
    parsed = parse_hyperparameters(BUILTIN | {"lr_scheduler_step": text})
    assert (parsed.learning_rate_scheduler, parsed.lr_scheduler_step) == ("step", steps)
    assert parsed.step_lr_step_size is None


@pytest.mark.parametrize("text", ["30,20", "20,20", "0,5", "-1", "a", "1,,2", "1.5"])
def test_lr_scheduler_step__refused(text: str) -> None:
    assert problems({"lr_scheduler_step": text}).endswith(": must be increasing epochs from 1, such as 20,30")


def test_lr_scheduler_step__switches_an_azure_job_to_steps() -> None:
    parsed = parse_hyperparameters({"lr_scheduler_step": "20,30"})
    assert (parsed.learning_rate_scheduler, parsed.lr_scheduler_step) == ("step", (20, 30))
    assert (parsed.step_lr_step_size, parsed.step_lr_gamma) == (None, 0.5)


@pytest.mark.parametrize(
    ("name", "text"), [("learning_rate_scheduler", "'warmup_cosine'"), ("step_lr_step_size", "5")]
)
def test_lr_scheduler_step__beside_another_schedule(name: str, text: str) -> None:
    assert problems({"lr_scheduler_step": "20,30", name: text.strip("'")}) == (
        f"lr_scheduler_step='20,30' and {name}={text} disagree: give one of them"
    )


def test_learning_rate_scheduler__constant_in_a_plain_built_in_job() -> None:
    parsed = parse_hyperparameters(BUILTIN)
    assert (parsed.learning_rate_scheduler, parsed.lr_scheduler_step) == ("step", ())
    assert parsed.step_lr_step_size is None


def test_learning_rate_scheduler__step_size_in_a_built_in_job() -> None:
    parsed = parse_hyperparameters(BUILTIN | {"step_lr_step_size": "4"})
    assert (parsed.learning_rate_scheduler, parsed.step_lr_step_size) == ("step", 4)
