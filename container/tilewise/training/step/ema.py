from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from tilewise.models.detector import VisionModel

SHARE = 20
"""A young average spans the last twentieth of its steps; short trainings need that as much as long ones."""

EVERY = 4
"""Steps whose weights are taken in together, by the last of them: each time costs a pass over all weights."""


class ModelEMA:
    """An exponential moving average of a model's weights, and of its buffers: normalisation's statistics.

    After the n-th step the average keeps ``n / (n + 20)`` of itself, and ``decay`` at most: it spans the last
    twentieth of the steps, whatever their number, until the decay limits it. YOLOX (arXiv 2107.08430, its
    published code) keeps ``decay * (1 - exp(-n / 2000))``: after 800 steps an average of two of them, as good
    as none in the short trainings that small data sets have. ``benchmarks/averages.py`` compares them. Of
    :data:`EVERY` steps the average takes in the last, with the share of all. Not PyTorch's ``AveragedModel``,
    which has its counter of steps on the GPU, where reading it would stop the GPU.

    Args:
        model: to average, on its device; it is copied as it is.
        decay: the share that an old average keeps.

    Attributes:
        steps: so many have been counted.

    """

    def __init__(self, model: VisionModel, decay: float):
        self._model = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self.decay, self.steps, self._waiting = decay, 0, 0
        now = model.state_dict()
        pairs = [(average, now[key]) for key, average in self._model.state_dict().items()]
        # tensors that share memory with the weights, which training changes in place
        self._weights = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]  # of normalisation

    @property
    def model(self) -> VisionModel:
        """The average of all steps until now."""
        self._take_in()
        return self._model

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"model": self._model.state_dict(), "steps": self.steps, "waiting": self._waiting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._model.load_state_dict(state["model"])
        self.steps, self._waiting = state["steps"], state.get("waiting", 0)

    def update(self) -> None:
        """To be called after each step."""
        self.steps += 1
        self._waiting += 1
        if self._waiting == EVERY:
            self._take_in()

    @torch.no_grad()
    def _take_in(self) -> None:
        if not self._waiting:
            return
        kept = min(self.decay, self.steps / (self.steps + SHARE)) ** self._waiting
        self._waiting = 0
        torch._foreach_lerp_([old for old, _ in self._weights], [new for _, new in self._weights], 1 - kept)
        if self._counters:
            torch._foreach_copy_([old for old, _ in self._counters], [new for _, new in self._counters])
