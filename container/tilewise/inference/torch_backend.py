from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tilewise.inference.device import best_device
from tilewise.models.detector import VisionModel

log = logging.getLogger(__name__)

GPU_BATCH = 8
"""Views that a GPU looks at together when a model is served; a CPU gains nothing by it."""


class TorchBackend:
    """Runs a model with PyTorch: a :class:`tilewise.inference.backend.Backend`.

    Args:
        model: on the device to use; it is put into evaluation mode.
        batch_size: views that go through it at once. Halved where a GPU's memory does not suffice.

    Attributes:
        model, batch_size: as given.
        device: where the model is.

    """

    def __init__(self, model: VisionModel, batch_size: int = 1):
        self.model = model.eval()
        self.batch_size = batch_size
        self.device = next(model.parameters()).device

    @classmethod
    def on_best_device(cls, model: VisionModel, batch_size: int | None = None) -> TorchBackend:
        """Move a model to where it is fastest; where ``batch_size`` is None, it suits the device."""
        device = best_device()
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, batch_size or (GPU_BATCH if device.type == "cuda" else 1))

    @torch.inference_mode()
    def detect(self, views: Sequence[Tensor]) -> list[Any]:
        """As :meth:`tilewise.inference.backend.Backend.detect`.

        Raises:
            torch.OutOfMemoryError: not even one view fits into the GPU's memory.

        """
        return self._detect(views)

    def _detect(self, views: Sequence[Tensor]) -> list[Any]:
        """In two halves, where all views do not fit into a GPU's memory at once."""
        try:
            return self.model.detect(views)
        except torch.OutOfMemoryError:
            if len(views) == 1:
                raise
        # Not in the handler: its exception still holds the tensors of the attempt.
        half = self.batch_size = -(-len(views) // 2)
        log.warning("%d views at once do not fit into the GPU's memory: %d from now on", len(views), half)
        return self._detect(views[:half]) + self._detect(views[half:])
