from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from tilewise.hyperparameters.row import Row, Tuning
from tilewise.hyperparameters.values import Fraction, Natural, Steps


class LearningRateHyperparameters(BaseModel, defer_build=True):
    """The learning rate and its schedule."""

    learning_rate: Annotated[
        Fraction,
        Row(
            "The highest learning rate.",
            azure=0.005,
            builtin=0.001,
            alias="learning_rate",
            tuning=Tuning("Logarithmic", 1e-6, 0.5),
        ),
    ]
    backbone_learning_rate_factor: Annotated[
        Fraction,
        Row(
            "The learning rate of the backbone, as a share of that of the rest.",
            azure=1.0,
            tuning=Tuning("Logarithmic", 0.01, 1),
        ),
    ]
    warmup_steps: Annotated[
        Natural | None,
        Row(
            "Steps of a linear warm-up, instead of `warmup_cosine_lr_warmup_epochs`; with `step`, too.",
            azure=None,
            unset="by epochs",
        ),
    ]
    learning_rate_scheduler: Annotated[
        Literal["warmup_cosine", "step"],
        Row(
            "How it falls: along a cosine after a warm-up, or in steps, which `lr_scheduler_step` implies.",
            azure="warmup_cosine",
            builtin="step",
        ),
    ]
    warmup_cosine_lr_warmup_epochs: Annotated[
        Natural, Row("Epochs of warm-up, 0 for none; `warmup_cosine` only.", azure=2)
    ]
    warmup_cosine_lr_cycles: Annotated[
        Fraction,
        Row("Periods of the cosine; 0.5 ends at zero. `warmup_cosine` only.", azure=0.45),
    ]
    step_lr_gamma: Annotated[
        Fraction,
        Row(
            "Factor at each step; `step` only.",
            azure=0.5,
            builtin=0.1,
            alias="lr_scheduler_factor",
        ),
    ]
    step_lr_step_size: Annotated[
        Natural | None,
        Row("Epochs between steps, 0 for none; `step` only.", azure=5, builtin=None),
    ]
    lr_scheduler_step: Annotated[
        Steps,
        Row(
            "Epochs after which the rate falls, instead of `step_lr_step_size`."
            " A built-in job that gives neither keeps it constant.",
            azure=(),
            unset="none",
            alias="lr_scheduler_step",
        ),
    ]
