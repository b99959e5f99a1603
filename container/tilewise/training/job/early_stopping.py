from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class BestScore:
    """Keeps the best validation score, and says when to stop waiting for a better one.

    Args:
        patience: evaluations without an improvement after which to stop; None never stops.
        delay: epochs before which the job is never stopped.
        waits_first: whether evaluations within the delay never count towards the patience, so that the job
            is not stopped before both are over (Azure AutoML's way; the built-in algorithm's is the other).
        tolerance: an improvement by less than this share of the last one that counted does not count.

    """

    def __init__(self, patience: int | None, delay: int, tolerance: float, *, waits_first: bool = False):
        self.patience, self.delay, self.tolerance = patience, delay, tolerance
        self.waits_first = waits_first
        self.best = -math.inf
        self.waited = 0
        self._reference = -math.inf

    def update(self, score: float, epochs_done: int) -> bool:
        """Note the score after so many epochs; returns whether it is the best so far (a tie is not)."""
        if score > self._reference and score - self._reference >= self.tolerance * max(self._reference, 0):
            self._reference, self.waited = score, 0
        elif epochs_done > self.delay or not self.waits_first:
            self.waited += 1
        if score <= self.best:
            return False
        self.best = score
        return True

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "waited": self.waited, "reference": self._reference}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.best, self.waited, self._reference = state["best"], state["waited"], state["reference"]

    def should_stop(self, epochs_done: int) -> bool:
        """Whether to stop after so many epochs."""
        return self.patience is not None and epochs_done >= self.delay and self.waited >= self.patience
