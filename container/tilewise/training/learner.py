"""What one batch does to a detector: forward, backward, and the optimizer's step."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.detector import Detector
from tilewise.training.optimizer import make_optimizer
from tilewise.training.schedule import Scheduler
from tilewise.views.sample import Sample

log = logging.getLogger(__name__)

MAX_GRADIENT_NORM = 10.0
MAX_BAD_STEPS = 10
"""After so many batches in a row whose loss or gradients are not finite the job stops."""


class Learner:
    """A detector in training, with its optimizer and its learning rate.

    Args:
        detector: on the device to train on.
        hp: the job's hyperparameters.
        steps_per_epoch: of the optimizer, as many as are expected.

    """

    def __init__(self, detector: Detector, hp: Hyperparameters, steps_per_epoch: int):
        self.detector, self.hp = detector, hp
        self.device = next(detector.parameters()).device
        self.optimizer = make_optimizer(detector, hp)
        self.scheduler = Scheduler(self.optimizer, hp, steps_per_epoch)
        self._batches = self._accumulated = self._bad_steps = 0

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: all that the next step depends on, also between two batches of one step."""
        parameters = self.detector.named_parameters()
        return {
            "detector": self.detector.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "scheduler": self.scheduler.state_dict(),
            "gradients": {name: each.grad for name, each in parameters if each.grad is not None},
            "accumulated": self._accumulated,
            "bad_steps": self._bad_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; rates and decays are those of this job's hyperparameters."""
        self.detector.load_state_dict(state["detector"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.scheduler.load_state_dict(state["scheduler"])
        for name, parameter in self.detector.named_parameters():
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(self.device)
        self._accumulated, self._bad_steps = state["accumulated"], state["bad_steps"]

    def begin_epoch(self, batches: int = 0) -> None:
        """To be called before each epoch's first batch, or where ``batches`` of it are learnt already."""
        self.detector.train()
        self._batches = batches

    def learn(self, samples: list[Sample]) -> dict[str, Tensor]:
        """Learn from one batch; after ``gradient_accumulation_step`` of them the weights change.

        Returns:
            The losses, detached; none where there is no sample or the loss is not finite.

        Raises:
            UserError: nothing was finite for many batches in a row.

        """
        losses: dict[str, Tensor] = {}
        if samples:
            moved = [_to(sample, self.device) for sample in samples]
            losses = self.detector([sample.pixels for sample in moved], moved)
            total = torch.stack(list(losses.values())).sum()
            if math.isfinite(float(total.detach())):
                total.backward()
                self._accumulated += 1
            else:
                self._skip("loss")
                losses = {}
        self._batches += 1
        if self._batches % self.hp.gradient_accumulation_step == 0:
            self._update()
        return {name: loss.detach() for name, loss in losses.items()}

    def end_epoch(self) -> None:
        """To be called after each whole epoch: what has been accumulated is learnt."""
        if self._batches % self.hp.gradient_accumulation_step:
            self._update()
        self.scheduler.end_epoch()

    def _update(self) -> None:
        """The optimizer's step, with the mean of the gradients that batches have given since the last one."""
        if self._accumulated > 1:
            for parameter in self.detector.parameters():
                if parameter.grad is not None:
                    parameter.grad /= self._accumulated
        norm = torch.nn.utils.clip_grad_norm_(self.detector.parameters(), MAX_GRADIENT_NORM)
        if not math.isfinite(norm):
            self._skip("gradient")
            self.optimizer.zero_grad()
        elif self._accumulated:
            self._bad_steps = 0
        self.optimizer.step()  # changes nothing where there are no gradients
        self.optimizer.zero_grad()
        self.scheduler.step()
        self._accumulated = 0

    def _skip(self, what: str) -> None:
        self._bad_steps += 1
        log.warning("the %s is not finite: this batch is skipped", what)
        if self._bad_steps >= MAX_BAD_STEPS:
            raise UserError(
                f"the {what} was not finite for {MAX_BAD_STEPS} batches in a row: the training has diverged; "
                f"lower learning_rate (it is {self.hp.learning_rate:g}) or warm up for longer"
            )


def _to(sample: Sample, device: torch.device) -> Sample:
    tensors = (sample.pixels, sample.boxes, sample.labels, sample.ignored)
    return Sample(*(tensor.to(device, non_blocking=True) for tensor in tensors))
