from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tilewise.data.decode import DecodedImage, decode_reduced
from tilewise.inference.artifact import Artifact
from tilewise.inference.device import tune_device
from tilewise.instances import Instances, on_cpu
from tilewise.models.detector import Detector
from tilewise.tiling.merge import cut_sides, merge_detections
from tilewise.tiling.plan import plan_views
from tilewise.tiling.spec import AS_TRAINED, WHOLE_IMAGE, TileOptions, Tiling
from tilewise.views.view import Scaling, View

log = logging.getLogger(__name__)

GPU_BATCH = 8
"""Views that a GPU looks at together when a model is served; a CPU gains nothing by it."""


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    Attributes:
        width, height: pixels of the upright image.
        detections: boxes in these pixels, best score first, on the CPU.

    """

    width: int
    height: int
    detections: Instances


class _Image:
    """An image whose views are being looked at, and what they have shown so far."""

    def __init__(self, width: int, height: int, views: int):
        self.width, self.height, self.waiting = width, height, views
        self.found: list[Instances] = []
        self.view: list[Tensor] = []
        self.cut: list[Tensor] = []

    def add(self, view: View, detections: Instances) -> None:
        """Take what was found in a view, on the CPU, from its pixels to the image's."""
        cut = cut_sides(detections.boxes, view, self.width, self.height)
        found = view.to_image(detections, self.width, self.height)
        answered = torch.from_numpy(view.answers_for(found.boxes.numpy()))
        self.found.append(found.select(answered))
        self.cut.append(cut[answered])
        self.view.append(torch.full((len(self.found[-1]),), self.waiting))
        self.waiting -= 1

    def prediction(self, tiling: Tiling) -> Prediction:
        """What was found in all views, merged."""
        found = Instances.cat(self.found)
        if len(self.found) > 1:
            view, cut = torch.cat(self.view), torch.cat(self.cut)
            found = merge_detections(found, view, cut, tiling.merge, tiling.merge_threshold)
        else:
            found = found.select(found.scores.argsort(descending=True, stable=True))
        return Prediction(self.width, self.height, found)


@dataclass(frozen=True)
class PendingView:
    """A view's pixels, waiting to be batched with others of the same size."""

    image: _Image
    view: View
    pixels: Tensor


class Predictor:
    """The one path from an image to its detections; validation and the endpoint both take it.

    Not safe for several threads at once.

    Args:
        detector: on the device to use; it is put into evaluation mode.
        scaling: how its views are scaled.
        classes: names by label.
        batch_size: views that go through the detector at once; only views of equal size share a batch, so
            that what is found in an image never depends on its neighbours. Halved where a GPU's memory does
            not suffice.
        tiling: the views of an image, and how what they show is merged.

    """

    def __init__(
        self,
        detector: Detector,
        scaling: Scaling,
        classes: tuple[str, ...],
        batch_size: int = 1,
        tiling: Tiling = WHOLE_IMAGE,
    ):
        self.detector = detector.eval()
        self.scaling = scaling
        self.classes = classes
        self.batch_size = batch_size
        self.tiling = tiling
        self.device = next(detector.parameters()).device

    @staticmethod
    def load(model_dir: Path, options: TileOptions = AS_TRAINED) -> Predictor:
        """Load the model in a folder, onto a GPU if there is one.

        Args:
            model_dir: what a training job left.
            options: tiles in place of the model's own.

        Raises:
            UserError: the folder holds no model that can be used.

        """
        tune_device()
        artifact = Artifact.load(model_dir)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        detector = artifact.detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        tiling = options.change(artifact.spec.tiling)
        log.info("each image is seen as %s", tiling)
        batch_size = GPU_BATCH if device == "cuda" else 1
        return Predictor(detector, artifact.spec.scaling, artifact.classes, batch_size, tiling)

    def warm_up(self) -> None:
        """Predict once on a blank image, so that the first request finds everything ready."""
        next(self.predict_all([DecodedImage.whole(torch.zeros((3, 64, 64), dtype=torch.uint8))]))

    def predict(self, image: bytes) -> Prediction:
        """Find the objects in an encoded image.

        Raises:
            DecodeError: the bytes are no image, or a damaged one.
            ImageTooLargeError: the image has too many pixels.

        """
        return next(self.predict_all([self.decode(image)]))

    def decode(self, image: bytes) -> DecodedImage:
        """Decode an image as finely as its views need it; safe for several threads.

        Raises:
            DecodeError, ImageTooLargeError: as :meth:`predict`.

        """
        return decode_reduced(image, self._reduction)

    def _reduction(self, width: int, height: int) -> int:
        return min(view.reduction for view in self._plan(width, height))

    def _plan(self, width: int, height: int) -> list[View]:
        return plan_views(self.tiling, width, height, self.scaling)

    def predict_all(self, images: Iterable[DecodedImage]) -> Iterator[Prediction]:
        """Find the objects in images, in their order.

        An image's views are cut from it one after the other, on the detector's device: beside the image there
        are never more pixels than those of one batch of views.
        """
        pending: list[PendingView] = []
        open_images: deque[_Image] = deque()
        for image in images:
            views = [view.snapped(image.factor) for view in self._plan(image.width, image.height)]
            open_images.append(_Image(image.width, image.height, len(views)))
            on_device, factor = image.pixels.to(self.device), image.factor
            for view in views:
                if pending and (len(pending) == self.batch_size or pending[0].view.size != view.size):
                    self._finish(pending)
                    pending = []
                pending.append(PendingView(open_images[-1], view, view.pixels_from_image(on_device, factor)))
            del image, on_device
            while open_images and not open_images[0].waiting:
                yield open_images.popleft().prediction(self.tiling)
        self._finish(pending)
        for finished in open_images:
            yield finished.prediction(self.tiling)

    @torch.inference_mode()
    def _finish(self, looks: list[PendingView]) -> None:
        if looks:
            found = on_cpu(self._detect([look.pixels for look in looks]))
            for look, detections in zip(looks, found, strict=True):
                look.image.add(look.view, detections)

    def _detect(self, views: list[Tensor]) -> list[Instances]:
        """What each view shows, in two halves where all do not fit into a GPU's memory at once."""
        try:
            return self.detector.detect(views)
        except torch.OutOfMemoryError:
            if len(views) == 1:
                raise
        # Not in the handler: its exception still holds the tensors of the attempt.
        half = self.batch_size = -(-len(views) // 2)
        log.warning("%d views at once do not fit into the GPU's memory: %d from now on", len(views), half)
        return self._detect(views[:half]) + self._detect(views[half:])
