from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tilewise.arrays import Array


class Backend(Protocol):
    """What runs a network at inference, and makes what its task wants of its outputs.

    A backend decides where pixels are: on the CPU they are arrays, so that one that needs no PyTorch never
    loads it. Candidates become instances in :func:`tilewise.suppression.suppress`, whatever has found them.
    The first view warms a backend up: :meth:`tilewise.inference.predictor.Predictor.warm_up` shows it one.
    Not safe for several threads at once.
    """

    @property
    def on_gpu(self) -> bool:
        """Whether it computes beside the CPU, which then has time to decode images."""

    @property
    def batch_size(self) -> int:
        """Views that it is to see at once, at most; it may fall where memory turns out not to suffice."""

    def upload(self, pixels: Array) -> Any:
        """An image, (3, H, W) uint8, to where its views are cut from it."""

    def detect(self, views: Sequence[Any]) -> list[Any]:
        """What the model says of each view.

        Args:
            views: each (3, h, w) uint8, cut from what :meth:`upload` returned, all of one size.

        Returns:
            One for each view, on the CPU: a detector's are instances, in the view's pixels.

        """
