from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel

from tilewise.hyperparameters.row import Row
from tilewise.hyperparameters.values import Natural


class CheckpointsHyperparameters(BaseModel, defer_build=True):
    """What a job keeps to go on from, and where one starts."""

    checkpoint_frequency: Annotated[
        Natural | None,
        Row(
            "Epochs between checkpoints, where the job has a `CheckpointConfig`; 0: only at the end, and when"
            " the job is stopped.",
            azure=None,
            unset="1",
        ),
    ]
    checkpoint_run_id: Annotated[
        str | None,
        Row(
            "Azure's name of the run to start from; its model must be in the channel `model`.",
            azure=None,
        ),
    ]
    checkpoint_dataset_id: Annotated[
        str | None, Row("As `checkpoint_run_id`, in Azure's first SDK.", azure=None)
    ]
    checkpoint_filename: Annotated[
        str | None, Row("As `checkpoint_run_id`, in Azure's first SDK.", azure=None)
    ]
