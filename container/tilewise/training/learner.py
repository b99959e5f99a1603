"""What one batch does to a detector: forward, backward, and the optimizer's step."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.detector import Detector
from tilewise.training.optimizer import make_optimizer
from tilewise.training.schedule import Scheduler
from tilewise.training.world import ALONE, World
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
        view_size: (width, height) of some view that the detector takes.
        world: the processes that train together; gradients are averaged over them.

    """

    def __init__(
        self,
        detector: Detector,
        hp: Hyperparameters,
        steps_per_epoch: int,
        view_size: tuple[int, int],
        world: World = ALONE,
    ):
        self.view_size = view_size
        self.detector, self.hp, self.world = detector, hp, world
        self.device = next(detector.parameters()).device
        self._forward: nn.Module = detector
        if world.size > 1:
            # In each backward pass it averages all that has accumulated: batches may be added up as they are.
            self._forward = DistributedDataParallel(detector)
        self.optimizer = make_optimizer(detector, hp)
        self.scheduler = Scheduler(self.optimizer, hp, steps_per_epoch)
        self._batches = self._accumulated = self._bad_steps = 0

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def begin_epoch(self) -> None:
        """To be called before each epoch's first batch."""
        self.detector.train()
        self._batches = 0

    def learn(self, samples: list[Sample]) -> dict[str, Tensor]:
        """Learn from one batch; after ``gradient_accumulation_step`` of them the weights change.

        Returns:
            The losses, detached; none where there is no sample or the loss is not finite.

        Raises:
            UserError: nothing was finite for many batches in a row.

        """
        self._batches += 1
        last = self._batches % self.hp.gradient_accumulation_step == 0
        losses: dict[str, Tensor] = {}
        if samples:
            losses = self._backward(samples)
        elif self.world.size > 1:  # the others wait for this process's gradients
            self._backward([blank_sample(*self.view_size)], weight=0.0)
        if last:
            self._update()
        return losses

    def _backward(self, samples: list[Sample], weight: float = 1.0) -> dict[str, Tensor]:
        moved = [_to(sample, self.device) for sample in samples]
        losses: dict[str, Tensor] = self._forward([sample.pixels for sample in moved], moved)
        total = weight * torch.stack(list(losses.values())).sum()
        finite = math.isfinite(float(total.detach()))
        if not finite:
            self._skip("loss")
        if finite or self.world.size > 1:  # what is not finite reaches all processes, and all leave it out
            total.backward()
            self._accumulated += 1
        return {name: loss.detach() for name, loss in losses.items()} if finite else {}

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


def blank_sample(width: int, height: int) -> Sample:
    """An image without objects, in place of a batch whose images are all damaged."""
    return Sample(
        torch.zeros((3, height, width), dtype=torch.uint8),
        torch.zeros((0, 4)),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
    )


def _to(sample: Sample, device: torch.device) -> Sample:
    tensors = (sample.pixels, sample.boxes, sample.labels, sample.ignored)
    return Sample(*(tensor.to(device, non_blocking=True) for tensor in tensors))
