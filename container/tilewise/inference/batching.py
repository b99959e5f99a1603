"""Views of several images -> batches of views of one size, and what these show back to its image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tilewise.inference.backend import Backend
from tilewise.tiling.spec import Tiling
from tilewise.views.view import View

Merge = Callable[[Sequence[tuple[View, Any]], int, int, Tiling], Any]
"""Makes one answer of what a model says of an image's views.

It takes each view with what the model says of it, on the CPU and in the order of the plan, the image's width
and height in pixels, and the tiling; what it returns is up to the task, a detector's is a
:class:`tilewise.inference.detections.Prediction`.
"""


class OpenImage:
    """An image whose views are being looked at, and what they have shown so far.

    Attributes:
        width, height: pixels of the upright image.
        waiting: how many of its views have not been looked at.

    """

    def __init__(self, width: int, height: int, views: int):
        self.width, self.height, self.waiting = width, height, views
        self._shown: list[tuple[View, Any]] = []

    def add(self, view: View, result: Any) -> None:
        """Take what the model says of a view."""
        self._shown.append((view, result))
        self.waiting -= 1

    def merged(self, merge: Merge, tiling: Tiling) -> Any:
        """What the model says of the image."""
        return merge(self._shown, self.width, self.height, tiling)


@dataclass(frozen=True)
class PendingView:
    """A view's pixels, waiting to be batched with others of the same size."""

    image: OpenImage
    view: View
    pixels: Any


class ViewBatcher:
    """Shows a backend views of one size together, so that what a view shows never depends on the others.

    Args:
        backend: looks at the views.

    """

    def __init__(self, backend: Backend):
        self.backend = backend
        self._pending: list[PendingView] = []

    def add(self, image: OpenImage, view: View, pixels: Any, *, factor: int) -> None:
        """Cut a view from its image, after those before it were looked at if they go without it.

        Args:
            image: gets what the view shows, sooner or later.
            view: the view, snapped to ``factor``.
            pixels: (3, H, W) uint8, the image as the backend has uploaded it.
            factor: by how much it has been reduced.

        """
        pending = self._pending
        if pending and (len(pending) == self.backend.batch_size or pending[0].view.size != view.size):
            self.flush()
        self._pending.append(PendingView(image, view, view.pixels_from_image(pixels, factor)))

    def flush(self) -> None:
        """Look at the views that wait."""
        pending, self._pending = self._pending, []
        if pending:
            results = self.backend.detect([each.pixels for each in pending])
            for each, result in zip(pending, results, strict=True):
                each.image.add(each.view, result)
