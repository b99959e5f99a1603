"""What a training step needs of a GPU's memory, and what to say when it has not got it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters

MARGIN = 0.9
"""The share of the memory that is planned with: the rest is lost between blocks, and to CUDA itself."""


class BatchTooLargeError(UserError):
    """A training batch needs more memory than the GPU has."""


class StepMemory:
    """Watches the steps of a job: the largest that fitted tells how much a larger one would need.

    Args:
        hp: the job's hyperparameters.
        device: that trains.

    """

    def __init__(self, hp: Hyperparameters, device: torch.device):
        self.hp, self.device = hp, device
        self._pixels = 0
        self._peak = self._model = 0

    @contextmanager
    def of_step(self, sizes: Sequence[tuple[int, int]]) -> Iterator[None]:
        """To be put around a step with views of these heights and widths.

        Raises:
            BatchTooLargeError: it needs more memory than there is; the message says what would fit.

        """
        if self.device.type == "cuda" and not self._pixels:
            self._model = torch.cuda.memory_allocated(self.device)
        try:
            yield
        except torch.OutOfMemoryError:
            if not sizes:
                raise
            raise BatchTooLargeError(self._message(sizes)) from None
        pixels = padded_pixels(sizes)
        if self.device.type == "cuda" and pixels > self._pixels:
            self._pixels, self._peak = pixels, torch.cuda.max_memory_allocated(self.device)

    def _message(self, sizes: Sequence[tuple[int, int]]) -> str:
        hp, total = self.hp, torch.cuda.mem_get_info(self.device)[1]
        name = hp.spelling("training_batch_size")
        height, width = map(max, zip(*sizes, strict=True))
        if hp.image_size:
            smaller = f"{hp.spelling('image_size')} (it is {hp.image_size})"
        else:
            smaller = f"min_size and max_size (they are {hp.min_size} and {hp.max_size})"
        fits = self._fits(sizes, total)
        # mini_batch_size counts the images of all GPUs of a machine
        share = max(1, round(hp.training_batch_size / len(sizes)))
        advice = f"a smaller {smaller}, or an instance with more memory"
        if fits:
            advice = f"{name}={fits * share}, which should fit, or {name}=auto, or {advice}"
        return (
            f"{name}={hp.training_batch_size} does not fit into the GPU's {total / 2**30:.1f} GiB with views "
            f"of {width} x {height} pixels ({len(sizes)} in this batch): use {advice}"
        )

    def _fits(self, sizes: Sequence[tuple[int, int]], total: int) -> int:
        """How many such views would fit, fewer than there are; 0 where not even one seems to."""
        room, pixels = MARGIN * total - self._model, padded_pixels(sizes)
        if self._pixels:
            need = (self._peak - self._model) / self._pixels * pixels / len(sizes)
            return max(0, min(len(sizes) - 1, int(room / max(1.0, need))))
        return len(sizes) // 2  # nothing is known but that it needs more than there is


def padded_pixels(sizes: Sequence[tuple[int, int]]) -> int:
    """The pixels of a batch of views of these heights and widths, with those that fill it up to one size."""
    return len(sizes) * math.prod(map(max, zip(*sizes, strict=True))) if sizes else 0
