"""Steps whose loss or gradient is not finite: who finds them, and when there are too many."""

from __future__ import annotations

import logging
import math
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from tilewise.errors import UserError
from tilewise.training.step.amp import Precision

log = logging.getLogger(__name__)

MAX_NON_FINITE_STEPS = 10
"""After so many in a row whose loss or gradients are not finite the job stops."""
READ_EVERY = 20
"""A GPU's count is copied every so many steps, and looked at as many steps later: nothing waits for it."""


class NonFiniteSteps:
    """Counts the steps that were skipped, and stops a training that has diverged.

    Args:
        learning_rate: the job's, for the message.

    """

    def __init__(self, learning_rate: float):
        self.learning_rate = learning_rate
        self.in_a_row = 0
        self._notes = 0
        self._logged = 0
        self._counts: Tensor | None = None  # in a row now, in a row at most, in all
        self._copied: tuple[Tensor, torch.cuda.Event | None] | None = None

    def add(self, what: str) -> None:
        """A step was skipped, because of its loss or its gradient.

        Raises:
            UserError: it was one too many.

        """
        self.in_a_row += 1
        log.warning("the %s is not finite: this batch is skipped", what)
        if self.in_a_row >= MAX_NON_FINITE_STEPS:
            self._stop(what)

    def note(self, bad: Tensor) -> None:
        """Count a step on its device, where it alone knows whether it was skipped.

        Args:
            bad: () bool.

        Raises:
            UserError: an earlier one was one too many.

        """
        if self._counts is None:
            self._counts = torch.zeros(3, dtype=torch.int64, device=bad.device)
        row, most, every = self._counts
        row = (row + 1) * bad
        self._counts = torch.stack([row, torch.maximum(row, most), every + bad])
        self._notes += 1
        if self._notes % READ_EVERY == 0:
            self._look()
            self._copy()

    def read(self) -> None:
        """Look at the count as it is now; waits for the device.

        Raises:
            UserError: a step was one too many.

        """
        if self._counts is not None:
            self._copy()
            self._look()

    def _copy(self) -> None:
        assert self._counts is not None
        if self._counts.device.type == "cuda":
            there = torch.empty(3, dtype=torch.int64, pin_memory=True)
            there.copy_(self._counts, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._copied = (there, event)
        else:
            self._copied = (self._counts, None)

    def _look(self) -> None:
        if self._copied is None:
            return
        counts, event = self._copied
        if event is not None:
            event.synchronize()
        self._copied = None
        _, most, every = counts.tolist()
        if every > self._logged:
            log.warning(
                "the loss or its gradient was not finite: %d batches have been skipped", every - self._logged
            )
            self._logged = every
        if most >= MAX_NON_FINITE_STEPS:
            self._stop("loss or its gradient")

    def _stop(self, what: str) -> None:
        raise UserError(
            f"the {what} was not finite for {MAX_NON_FINITE_STEPS} batches in a row: the training has "
            f"diverged; lower learning_rate (it is {self.learning_rate:g}) or warm up for longer"
        )


class FiniteCheck(Protocol):
    """Sees to it that a step whose loss or gradient is not finite changes no weight."""

    steps: NonFiniteSteps

    def admit(self, loss: Tensor) -> Tensor | None:
        """The () loss to go backward from; None to leave its batch out of the step."""

    def admit_step(self, norm: Tensor) -> bool:
        """Count a step with gradients of this () norm as good or bad.

        Returns:
            Whether the optimizer is to see the gradients; without them its step changes nothing.

        """

    def is_at_most(self, norm: Tensor, most: float) -> bool:
        """Whether the () norm is known not to be larger."""


class ReadEachStep:
    """Reads each loss and each gradient's norm before the next step: for a CPU, or for accumulated batches.

    One process alone leaves only the bad batch out of an accumulated step.

    Args:
        steps: counts them.
        scaler: of float16's losses.
        precision: of the forward pass.
        alone: whether no other process waits for this one's gradients.

    """

    needs_scaler: ClassVar[bool] = False

    def __init__(
        self, steps: NonFiniteSteps, scaler: torch.amp.GradScaler, precision: Precision, *, alone: bool
    ):
        self.steps, self.scaler, self.precision, self.alone = steps, scaler, precision, alone
        self._loss_was_finite: Tensor | bool = True

    def admit(self, loss: Tensor) -> Tensor | None:
        """The loss, or None; among several processes NaN gradients, so that all leave the step out."""
        self._loss_was_finite = loss.detach().isfinite()
        if not self.alone:
            return loss * torch.where(self._loss_was_finite, 1.0, torch.nan)
        if self._loss_was_finite:
            return loss
        self.steps.add("loss")
        return None

    def admit_step(self, norm: Tensor) -> bool:
        """Reads the norm; float16's scaler skips bad steps by itself."""
        if math.isfinite(norm):
            self.steps.in_a_row = 0
        elif not self.precision.scaled:
            self.steps.add("gradient" if self._loss_was_finite else "loss")
            return False
        elif self.scaler.get_scale() <= 1:
            self.steps.add("gradient")
        return True

    def is_at_most(self, norm: Tensor, most: float) -> bool:
        """Reads it."""
        return bool(norm <= most)


class ReadLater:
    """Reads nothing, which would stop a GPU once a step: what is not finite is left out there.

    Such a loss makes its gradients NaN, and the fused optimizer, through ``GradScaler``, skips its step
    there. How often it did is read later (:class:`NonFiniteSteps`). RMSprop and Adadelta are not fused:
    ``GradScaler`` reads one flag a step.

    Args:
        steps: counts them.
        scaler: skips them; it must be enabled in each precision.
        precision: of the forward pass.
        alone: whether no other process waits for this one's gradients; it does not matter.

    """

    needs_scaler: ClassVar[bool] = True

    def __init__(
        self, steps: NonFiniteSteps, scaler: torch.amp.GradScaler, precision: Precision, *, alone: bool
    ):
        self.steps, self.scaler, self.precision = steps, scaler, precision
        self._loss_was_finite: Tensor | None = None

    def admit(self, loss: Tensor) -> Tensor:
        """The loss, or NaN gradients."""
        self._loss_was_finite = loss.detach().isfinite()
        return loss * torch.where(self._loss_was_finite, 1.0, torch.nan)

    def admit_step(self, norm: Tensor) -> bool:
        """Notes on the device whether the step is good."""
        to_blame = self.scaler.scale(torch.ones_like(norm)) <= 1
        bad = ~norm.isfinite() & to_blame
        self.steps.note(bad if self._loss_was_finite is None else ~self._loss_was_finite | bad)
        return True

    def is_at_most(self, norm: Tensor, most: float) -> bool:
        """Not known."""
        return False
