from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel

from tilewise.hyperparameters.row import Row
from tilewise.hyperparameters.values import Count, Flag, Fraction


class EarlyStoppingHyperparameters(BaseModel, defer_build=True):
    """When a job ends before its last epoch."""

    early_stopping: Annotated[
        Flag,
        Row(
            "Stop when validation no longer improves.",
            azure=True,
            builtin=False,
            alias="early_stopping",
        ),
    ]
    early_stopping_patience: Annotated[
        Count,
        Row(
            "Validations without improvement before it stops.",
            azure=5,
            alias="early_stopping_patience",
        ),
    ]
    early_stopping_delay: Annotated[
        Count,
        Row(
            "Epochs before improvement is tracked: it stops after this and `early_stopping_patience` at the"
            " earliest. As `early_stopping_min_epochs`: epochs before it may stop.",
            azure=5,
            builtin=10,
            alias="early_stopping_min_epochs",
        ),
    ]
    early_stopping_tolerance: Annotated[
        Fraction,
        Row(
            "Smallest improvement that counts, as a share of the best figure so far.",
            azure=0.0,
            alias="early_stopping_tolerance",
        ),
    ]
