from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tilewise.data.decode import decode_image
from tilewise.detections import Detections
from tilewise.inference.artifact import Artifact
from tilewise.models.detector import Detector
from tilewise.views.view import Scaling, View, whole_image


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    Attributes:
        width, height: pixels of the upright image.
        detections: boxes in these pixels, best score first, on the CPU.

    """

    width: int
    height: int
    detections: Detections


@dataclass(frozen=True)
class _Look:
    """A view's pixels, waiting to be batched with others of the same size."""

    image: int
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
            that what is found in an image never depends on its neighbours.

    """

    def __init__(self, detector: Detector, scaling: Scaling, classes: tuple[str, ...], batch_size: int = 1):
        self.detector = detector.eval()
        self.scaling = scaling
        self.classes = classes
        self.batch_size = batch_size
        self.device = next(detector.parameters()).device

    @staticmethod
    def load(model_dir: Path) -> Predictor:
        """Load the model in a folder, onto a GPU if there is one.

        Raises:
            UserError: the folder holds no model that can be used.

        """
        torch.set_flush_denormal(True)
        artifact = Artifact.load(model_dir)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        detector = artifact.detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Predictor(detector, artifact.spec.scaling, artifact.classes)

    def warm_up(self) -> None:
        """Predict once on a blank image, so that the first request finds everything ready."""
        next(self.predict_all([torch.zeros((3, 64, 64), dtype=torch.uint8)]))

    def predict(self, image: bytes) -> Prediction:
        """Find the objects in an encoded image.

        Raises:
            DecodeError: the bytes are no image, or a damaged one.
            ImageTooLargeError: the image has too many pixels.

        """
        return next(self.predict_all([decode_image(image)]))

    def predict_all(self, images: Iterable[Tensor]) -> Iterator[Prediction]:
        """Find the objects in images, each (3, H, W) uint8 RGB, upright; in their order."""
        pending: list[_Look] = []
        sizes: dict[int, tuple[int, int]] = {}
        for index, image in enumerate(images):
            height, width = image.shape[-2:]
            sizes[index] = (width, height)
            for view in whole_image(width, height, self.scaling):
                look = _Look(index, view, view.pixels_from_image(image.to(self.device)))
                if pending and (len(pending) == self.batch_size or pending[0].view.size != view.size):
                    yield from self._finish(pending, sizes)
                    pending = []
                pending.append(look)
        if pending:
            yield from self._finish(pending, sizes)

    @torch.inference_mode()
    def _finish(self, looks: list[_Look], sizes: dict[int, tuple[int, int]]) -> list[Prediction]:
        found = self.detector.detect([look.pixels for look in looks])
        predictions = []
        for look, detections in zip(looks, found, strict=True):
            width, height = sizes.pop(look.image)
            boxes = look.view.boxes_to_image(detections.boxes)
            limits = boxes.new_tensor([width, height, width, height])
            boxes = torch.minimum(boxes.clamp(min=0), limits)
            order = detections.scores.argsort(descending=True, stable=True)
            detections = Detections(boxes, detections.scores, detections.labels)[order].to("cpu")
            predictions.append(Prediction(width, height, detections))
        return predictions
