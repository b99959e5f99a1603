"""Views of several images -> batches of views of one size, and what these show back to its image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilewise.arrays import Bool, Int64
from tilewise.inference.backend import Backend
from tilewise.instances import Instances
from tilewise.tiling.merge import cut_sides, merge_detections
from tilewise.tiling.spec import Tiling
from tilewise.views.view import View


class OpenImage:
    """An image whose views are being looked at, and what they have shown so far.

    Attributes:
        width, height: pixels of the upright image.
        waiting: how many of its views have not been looked at.

    """

    def __init__(self, width: int, height: int, views: int):
        self.width, self.height, self.waiting = width, height, views
        self._found: list[Instances] = []
        self._view: list[Int64] = []
        self._cut: list[Bool] = []

    def add(self, view: View, instances: Instances) -> None:
        """Take what was found in a view from its pixels to the image's."""
        cut = cut_sides(instances.boxes, view, self.width, self.height)
        detections = view.to_image(instances, self.width, self.height)
        answered = view.answers_for(detections.boxes)
        self._found.append(detections.select(answered))
        self._cut.append(cut[answered])
        self._view.append(np.full(len(self._found[-1]), self.waiting))
        self.waiting -= 1

    def merged(self, tiling: Tiling) -> Instances:
        """What was found in all views, as one answer, best score first."""
        detections = Instances.cat(self._found)
        if len(self._found) > 1:
            view, cut = np.concatenate(self._view), np.concatenate(self._cut)
            return merge_detections(detections, view, cut, tiling.merge, tiling.merge_threshold)
        return detections.select(np.argsort(-detections.scores, kind="stable"))


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

    def add(self, image: OpenImage, view: View, pixels: Any, factor: int) -> None:
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
            detections = self.backend.detect([each.pixels for each in pending])
            for each, instances in zip(pending, detections, strict=True):
                each.image.add(each.view, instances)
