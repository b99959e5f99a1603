from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Backend(Protocol):
    """What runs a network at inference, and makes what its task wants of its outputs.

    :class:`~tilewise.inference.torch_backend.TorchBackend` is the first one. A backend of another runtime
    runs an exported network; the family's own postprocess turns its outputs into what the model
    says of a view. The first view warms a backend up:
    :meth:`tilewise.inference.predictor.Predictor.warm_up` shows it one. Not safe for several threads at once.
    """

    @property
    def device(self) -> torch.device:
        """Where views are cut from their images."""

    @property
    def batch_size(self) -> int:
        """Views that it is to see at once, at most; it may fall where memory turns out not to suffice."""

    def detect(self, views: Sequence[Tensor]) -> list[Any]:
        """What the model says of each view.

        Args:
            views: each (3, h, w) uint8 on :attr:`device`, all of one size.

        Returns:
            One for each view, on the CPU: a detector's are instances in the view's pixels.

        """
