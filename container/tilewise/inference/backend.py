from __future__ import annotations

import time
from collections.abc import Callable, Sequence
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


class WatchedBackend:
    """A backend that tells of each batch of views that it has looked at, and how many seconds that took."""

    def __init__(self, backend: Backend, tell: Callable[[int, float], None]):
        self._backend, self._tell = backend, tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def detect(self, views: Sequence[Any]) -> Any:
        """See :class:`Backend`."""
        started = time.perf_counter()
        found = self._backend.detect(views)
        self._tell(len(views), time.perf_counter() - started)
        return found
