from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tilewise.arrays import Array
from tilewise.inference.device import best_device
from tilewise.inference.graph import said_of_view
from tilewise.models.detector import VisionModel

log = logging.getLogger(__name__)

GPU_BATCH = 8
"""Views that a GPU looks at together when a model is served; a CPU gains nothing by it."""


class TorchBackend:
    """Runs a model with PyTorch: a :class:`tilewise.inference.backend.Backend`.

    Args:
        model: on the device to use; it is put into evaluation mode.
        batch_size: views that go through it at once. Halved where a GPU's memory does not suffice.
        graph: the model traced and frozen, to be run in its place; see
            :func:`tilewise.inference.export.trace`.

    Attributes:
        model, batch_size, graph: as given.
        device: where the model is.

    """

    def __init__(self, model: VisionModel, batch_size: int = 1, graph: torch.jit.ScriptModule | None = None):
        self.model = model.eval()
        self.batch_size = batch_size
        self.graph = graph
        self.device = next(model.parameters()).device

    @classmethod
    def on_best_device(cls, model: VisionModel, batch_size: int | None = None) -> TorchBackend:
        """Move a model to where it is fastest; where ``batch_size`` is None, it suits the device."""
        device = best_device()
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, batch_size or (GPU_BATCH if device.type == "cuda" else 1))

    @property
    def on_gpu(self) -> bool:
        """See :class:`~tilewise.inference.backend.Backend`."""
        return self.device.type == "cuda"

    def upload(self, pixels: Array) -> Any:
        """See :class:`~tilewise.inference.backend.Backend`; an array unless it goes to a GPU."""
        return torch.from_numpy(pixels).to(self.device) if self.on_gpu else pixels

    @torch.inference_mode()
    def detect(self, views: Sequence[Any]) -> list[Any]:
        """As :meth:`tilewise.inference.backend.Backend.detect`.

        Raises:
            torch.OutOfMemoryError: not even one view fits into the GPU's memory.

        """
        if self.graph is not None:
            limits, found = getattr(self.model.postprocess, "limits", None), []
            for view in views:
                values = self.graph(torch.as_tensor(view).permute(1, 2, 0))
                found.append(said_of_view([each.numpy() for each in values], limits))
            return found
        return self._detect([torch.as_tensor(view) for view in views])

    def _detect(self, views: Sequence[Tensor]) -> list[Any]:
        """What each view shows, in two halves where all do not fit into a GPU's memory at once."""
        try:
            return self.model.detect(views)
        except torch.OutOfMemoryError:
            if len(views) == 1:
                raise
        # Not in the handler: its exception still holds the tensors of the attempt.
        half = self.batch_size = -(-len(views) // 2)
        log.warning("%d views at once do not fit into the GPU's memory: %d from now on", len(views), half)
        return self._detect(views[:half]) + self._detect(views[half:])
