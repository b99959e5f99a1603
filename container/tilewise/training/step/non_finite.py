from __future__ import annotations

import logging

import torch
from torch import Tensor

from tilewise.errors import UserError

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
