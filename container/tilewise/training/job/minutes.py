"""``minutes``: as many epochs as fit into a time, by the speed that was measured at the start."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from tilewise.data.records import Records
from tilewise.data.source import RecordSource
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.spec import ModelSpec
from tilewise.training.dataloading.view_sampler import ViewPlanner
from tilewise.training.job.context import JobContext

log = logging.getLogger(__name__)

LOADING = 1.05
"""A training's time by that of its steps alone (benchmarks/models.py: efficiency)."""

VALIDATION = 0.4
"""What a view costs in validation, by what it costs in training: a forward pass, and its detections."""

VALIDATIONS = 5
"""At most so many, where ``evaluation_frequency`` is not given."""

WARM_UP = 1 / 12
"""Of the epochs, where ``warmup_cosine_lr_warmup_epochs`` is not given."""


def refuse_pipe(hp: Hyperparameters, train: RecordSource) -> None:
    """Epochs are planned by the images that there are.

    Raises:
        UserError: they come through a pipe.

    """
    if hp.minutes is not None and not train.known_length:
        raise UserError(
            f"minutes={hp.minutes:g} plans epochs by the number of images, which is not known of a pipe: "
            f"give {hp.spelling('number_of_epochs')} instead, or use input mode File or FastFile"
        )


def plan_epochs(
    job: JobContext, train_pixels: int, validation_pixels: int, *, pixels_per_second: float
) -> JobContext:
    """The job with the number of epochs that its ``minutes`` hold; the log says which.

    Args:
        job: the training job.
        train_pixels: of the views of an epoch, of all processes.
        validation_pixels: of those of a validation; 0 without one.
        pixels_per_second: of the views that one process learns from.

    """
    hp = job.hp
    if hp.minutes is None:
        return job
    speed = pixels_per_second * job.distributed.size
    epoch_seconds = LOADING * train_pixels / speed
    validation_seconds = VALIDATION * validation_pixels / speed
    seconds = 60 * hp.minutes
    if "evaluation_frequency" in hp.given:
        epochs = int(seconds / (epoch_seconds + validation_seconds / hp.evaluation_frequency))
    else:
        epochs = int((seconds - VALIDATIONS * validation_seconds) / epoch_seconds)
        if epochs < VALIDATIONS:
            epochs = int(seconds / (epoch_seconds + validation_seconds))
    epochs = max(1, epochs)
    planned = {
        "number_of_epochs": epochs,
        "evaluation_frequency": -(-epochs // VALIDATIONS),
        # of one to three epochs a whole one would be too much: the rate would hardly fall
        "warmup_cosine_lr_warmup_epochs": max(int(epochs >= 4), round(epochs * WARM_UP)),
    }
    chosen = {name: value for name, value in planned.items() if name not in hp.given}
    expected = (epochs * epoch_seconds + min(epochs, VALIDATIONS) * validation_seconds) / 60
    log.info("minutes=%g: number_of_epochs=%d, some %.1f minutes", hp.minutes, epochs, expected)
    if epoch_seconds + validation_seconds > seconds:
        log.warning(
            "minutes=%g holds no whole epoch, and one is trained whole: for a shorter job give fewer images "
            "(tilewise convert --max-images), or a faster instance",
            hp.minutes,
        )
    return replace(job, hp=hp.model_copy(update=chosen))


def pixels_of_views(records: Records, spec: ModelSpec, planner: ViewPlanner | None, *, seed: int) -> int:
    """The pixels of the views of these images that an epoch has, by the job's own plan.

    Args:
        records: of the training data.
        spec: of the model.
        planner: plans the views; None for whole images.
        seed: of the job.

    """
    if planner is None:
        sizes = [spec.scaling.size_of(*size) for size in records.sizes.tolist()]
    else:
        drawn = planner.draw(records, np.random.default_rng((seed, 0)))
        sizes = [view.size for views in drawn for view in views]
    return sum(width * height for width, height in sizes)
