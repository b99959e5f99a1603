from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch.optim import Optimizer

from tilewise.hyperparameters import Hyperparameters


class LRScheduler:
    """Sets the learning rate of an optimizer for each of its steps, after :func:`learning_rate_factor`.

    How many steps an epoch has is known when it is over: the next one is taken to have as many. Until then
    the rate stays within its own epoch's, whatever was expected.

    Args:
        optimizer: its present learning rates are the highest ones.
        hp: the job's hyperparameters.
        steps_per_epoch: as many as the first epoch is expected to have.

    """

    def __init__(self, optimizer: Optimizer, hp: Hyperparameters, steps_per_epoch: int):
        self.optimizer, self.hp, self.steps_per_epoch = optimizer, hp, steps_per_epoch
        self.epoch = self.step_of_epoch = 0
        self._highest = [group["lr"] for group in optimizer.param_groups]
        self._set()

    def step(self) -> None:
        """To be called after each step of the optimizer."""
        self.step_of_epoch += 1
        self._set()

    def end_epoch(self) -> None:
        """To be called after each whole epoch."""
        self.epoch, self.steps_per_epoch, self.step_of_epoch = self.epoch + 1, max(1, self.step_of_epoch), 0
        self._set()

    def plan(self, hp: Hyperparameters, steps_per_epoch: int) -> None:
        """The job has another number of epochs or of steps in them from here on."""
        self.hp, self.steps_per_epoch = hp, steps_per_epoch
        self._set()

    def state_dict(self) -> dict[str, int]:
        """For a checkpoint: how far it is. What the rates are is the job's to say."""
        return {
            "epoch": self.epoch,
            "step_of_epoch": self.step_of_epoch,
            "steps_per_epoch": self.steps_per_epoch,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.epoch, self.step_of_epoch = state["epoch"], state["step_of_epoch"]
        self.steps_per_epoch = state["steps_per_epoch"]
        self._set()

    def _set(self) -> None:
        step = self.epoch * self.steps_per_epoch + min(self.step_of_epoch, self.steps_per_epoch - 1)
        factor = learning_rate_factor(self.hp, self.steps_per_epoch)(step)
        for group, highest in zip(self.optimizer.param_groups, self._highest, strict=True):
            group["lr"] = highest * factor


def learning_rate_factor(hp: Hyperparameters, steps_per_epoch: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by at each optimizer step, counted from 0.

    ``warmup_cosine`` rises linearly over the warm-up epochs, then follows
    ``(1 + cos(2π · cycles · progress)) / 2`` (Azure AutoML's, after Hugging Face's
    get_cosine_schedule_with_warmup). ``step`` multiplies by ``step_lr_gamma`` at each epoch of
    ``lr_scheduler_step``, or every ``step_lr_step_size`` epochs; with neither it stays 1. ``warmup_steps``
    are steps of a linear warm-up with either.
    """
    if hp.learning_rate_scheduler == "warmup_cosine":
        warmup = hp.warmup_cosine_lr_warmup_epochs * steps_per_epoch
        if hp.warmup_steps is not None:
            warmup = hp.warmup_steps
        total = hp.number_of_epochs * steps_per_epoch
        return lambda step: _warmup_cosine(step, warmup, total, hp.warmup_cosine_lr_cycles)
    warmup = hp.warmup_steps or 0
    return lambda step: (
        min(1.0, (step + 1) / (warmup + 1)) * hp.step_lr_gamma ** _drops(hp, step // steps_per_epoch)
    )


def _warmup_cosine(step: int, warmup: int, total: int, cycles: float) -> float:
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1 + math.cos(2 * math.pi * cycles * progress)))


def _drops(hp: Hyperparameters, epoch: int) -> int:
    if hp.lr_scheduler_step:
        return sum(epoch >= drop for drop in hp.lr_scheduler_step)
    return epoch // hp.step_lr_step_size if hp.step_lr_step_size else 0
