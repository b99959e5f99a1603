"""What a job does about classes that are rare in its training images."""

from __future__ import annotations

import logging

import numpy as np

from tilewise.arrays import Float64, Int64
from tilewise.data.source import RecordSource
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.training.dataloading.repeats import repeat_factors

log = logging.getLogger(__name__)

RARE = 0.01
"""A class with a smaller share of the most frequent one's objects is warned of."""


def balance(hp: Hyperparameters, source: RecordSource, classes: tuple[str, ...]) -> Float64 | None:
    """The repeat factors of a job's training images, where it wants them, and a warning of rare classes.

    Raises:
        UserError: the images come through a pipe.

    """
    if hp.class_balance and not source.supports_random_access:
        raise UserError(
            f"class_balance={hp.class_balance} shows some images more often, and those of a pipe come once: "
            "use input mode File or FastFile, or leave it out"
        )
    counts = np.bincount(source.sample.targets.labels[~source.sample.targets.ignored], minlength=len(classes))
    _warn_of_rare(counts, classes, balanced=bool(hp.class_balance))
    if not hp.class_balance:
        return None
    factors = repeat_factors(source.sample, hp.class_balance_threshold)
    log.info(
        "class_balance: an epoch shows %.0f images instead of %d; the most often shown one %.1f times",
        factors.sum(),
        len(factors),
        factors.max(initial=1),
    )
    return factors


def _warn_of_rare(counts: Int64, classes: tuple[str, ...], *, balanced: bool) -> None:
    there = np.flatnonzero(counts)
    if not len(there):
        return
    rarest, commonest = int(there[counts[there].argmin()]), int(counts.argmax())
    if counts[rarest] >= RARE * counts[commonest]:
        return
    advice = (
        "more images of it would help more than class_balance can"
        if balanced
        else "class_balance=repeat_factor shows its images more often"
    )
    log.warning(
        "class %s has %d objects, under a hundredth of the %d of class %s: %s",
        classes[rarest],
        counts[rarest],
        counts[commonest],
        classes[commonest],
        advice,
    )
