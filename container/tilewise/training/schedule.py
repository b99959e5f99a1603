from __future__ import annotations

import math
from collections.abc import Callable

from tilewise.hyperparameters import Hyperparameters


def learning_rate_factor(hp: Hyperparameters, steps_per_epoch: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by at each optimizer step, counted from 0.

    ``warmup_cosine`` rises linearly over the warm-up epochs, then follows
    ``(1 + cos(2π · cycles · progress)) / 2`` (Azure AutoML's, after Hugging Face's
    get_cosine_schedule_with_warmup). ``step`` multiplies by ``step_lr_gamma`` at each epoch of
    ``lr_scheduler_step``, or every ``step_lr_step_size`` epochs; with neither it stays 1.
    """
    if hp.learning_rate_scheduler == "warmup_cosine":
        warmup = hp.warmup_cosine_lr_warmup_epochs * steps_per_epoch
        total = hp.number_of_epochs * steps_per_epoch
        return lambda step: _warmup_cosine(step, warmup, total, hp.warmup_cosine_lr_cycles)
    return lambda step: hp.step_lr_gamma ** _drops(hp, step // steps_per_epoch)


def _warmup_cosine(step: int, warmup: int, total: int, cycles: float) -> float:
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * cycles * progress)))


def _drops(hp: Hyperparameters, epoch: int) -> int:
    if hp.lr_scheduler_step:
        return sum(epoch >= drop for drop in hp.lr_scheduler_step)
    return epoch // hp.step_lr_step_size if hp.step_lr_step_size else 0
