from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from tilewise.hyperparameters.row import Row, Tuning
from tilewise.hyperparameters.values import Flag, Fraction, Positive


class OptimizerHyperparameters(BaseModel, defer_build=True):
    """How gradients change the weights."""

    optimizer: Annotated[
        Literal["sgd", "adam", "adamw", "rmsprop", "adadelta"],
        Row(
            "The algorithm that updates the weights.",
            azure="sgd",
            alias="optimizer",
            tuning=Tuning("Categorical", categories=("sgd", "adam", "rmsprop", "adadelta")),
        ),
    ]
    momentum: Annotated[
        Fraction,
        Row(
            "Momentum; `sgd` and `rmsprop` only.",
            azure=0.9,
            alias="momentum",
            tuning=Tuning("Linear", 0, 0.999),
        ),
    ]
    nesterov: Annotated[Flag, Row("Nesterov's form of momentum; `sgd` only.", azure=True, builtin=False)]
    weight_decay: Annotated[
        Fraction,
        Row(
            "Decay of the weights towards zero.",
            azure=1e-4,
            builtin=5e-4,
            alias="weight_decay",
            tuning=Tuning("Linear", 0, 0.999),
        ),
    ]
    beta1: Annotated[Fraction, Row("Decay of the mean of the gradients; `adam` and `adamw` only.", azure=0.9)]
    beta2: Annotated[
        Fraction,
        Row("Decay of the mean of their squares; `adam` and `adamw` only.", azure=0.999),
    ]
    ams_gradient: Annotated[Flag, Row("The AMSGrad variant; `adam` and `adamw` only.", azure=False)]
    max_gradient_norm: Annotated[
        Positive,
        Row("Gradients with a larger norm are scaled down to it.", azure=10.0),
    ]
