from __future__ import annotations

import io
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from tilewise.arrays import Array
from tilewise.data.decoding.decode import DecodedImage, decode_reduced
from tilewise.inference.backend import Backend, WatchedBackend
from tilewise.inference.batching import Merge, OpenImage, ViewBatcher
from tilewise.inference.description import ModelDescription
from tilewise.inference.load import BackendName, load_backend
from tilewise.inference.view_plan import ViewPlan
from tilewise.registry import find_task
from tilewise.tiling.spec import AS_TRAINED, TileOptions

log = logging.getLogger(__name__)


class Predictor:
    """The one path from an image to what a model says of it; validation and the endpoint both take it.

    Not safe for several threads at once.

    Args:
        backend: runs the network. Only views of equal size share a batch, so that what is said of an image
            never depends on its neighbours.
        plan: the views of an image, and how what they show is merged.
        classes: names by label.
        merge: the task's: it makes one answer of what the model says of an image's views.

    Example:
        >>> predictor = Predictor.load("model")
        >>> for box, score, label in predictor.predict(encoded_image).detections:
        ...     print(predictor.classes[label], score, box)

    """

    def __init__(self, backend: Backend, plan: ViewPlan, classes: tuple[str, ...], *, merge: Merge):
        self.backend = backend
        self.plan = plan
        self.classes = classes
        self.merge = merge

    @staticmethod
    def load(
        model_dir: Path | str,
        options: TileOptions = AS_TRAINED,
        *,
        batch_size: int | None = None,
        backend: BackendName = "auto",
    ) -> Predictor:
        """Load the model in a folder, onto a GPU if there is one.

        A classifier that ``model.json`` names is left aside: :func:`.two_stages.load_predictor` loads both.

        Args:
            model_dir: what a training job left.
            options: tiles in place of the model's own.
            batch_size: views that go through the network at once; None for what suits the device.
            backend: see :func:`tilewise.inference.load.load_backend`.

        Raises:
            UserError: the folder holds no model that can be used, or the GPU is too old.

        """
        description = ModelDescription.read(Path(model_dir))
        spec = description.spec
        loaded = load_backend(description.folder, description, backend, batch_size=batch_size)
        plan = ViewPlan(spec.scaling, options.change(spec.tiling), spec.rendering)
        log.info("each image is seen as %s", plan.tiling)
        merge = find_task(description.task)().merger(spec)
        return Predictor(loaded, plan, description.classes, merge=merge)

    def seen_as(self, options: TileOptions) -> Predictor:
        """The same model with other tiles."""
        plan = replace(self.plan, tiling=options.change(self.plan.tiling))
        return Predictor(self.backend, plan, self.classes, merge=self.merge)

    def watch(self, tell: Callable[[int, float], None]) -> None:
        """Have each batch of views told of when it has been looked at: how many, and in how many seconds."""
        self.backend = WatchedBackend(self.backend, tell)

    def warm_up(self) -> None:
        """Predict once on a blank JPEG, so that the first request finds everything ready.

        Its decoder, too: what it imports holds every thread for some 50 ms.
        """
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, "JPEG")
        blank = decode_reduced(file.getvalue(), self._reduction, rendering=self.plan.rendering)
        next(self.predict_all([blank]))

    def predict(self, image: bytes | Path) -> Any:
        """What the model says of an encoded image, or of the file of one that may be larger than memory.

        A detector says a :class:`~.detections.Prediction`.

        Raises:
            DecodeError: the bytes are no image, or a damaged one.
            ImageTooLargeError: the image has too many pixels.

        """
        return next(self.predict_all([self.decode(image)]))

    def decode(self, image: bytes | Path) -> DecodedImage:
        """Decode an image as finely as its views need it; safe for several threads.

        Raises:
            DecodeError, ImageTooLargeError: as :meth:`predict`.

        """
        decoded = decode_reduced(image, self._reduction, rendering=self.plan.rendering)
        for remark in decoded.remarks:
            _say_once(remark)
        return decoded

    def _reduction(self, width: int, height: int) -> int:
        return self.plan.reduction(width, height)

    def pixels(self, image: bytes) -> Array:
        """All pixels of an encoded image, (3, H, W) uint8, in the colours that the model sees.

        Raises:
            DecodeError, ImageTooLargeError: as :meth:`predict`.

        """
        return decode_reduced(image, lambda width, height: 1, rendering=self.plan.rendering).pixels

    def predict_all(self, images: Iterable[DecodedImage]) -> Iterator[Any]:
        """What the model says of images, in their order.

        An image's views are cut from it one after the other, where the backend wants it: beside the image
        there are never more pixels than those of one batch of views.
        """
        batcher = ViewBatcher(self.backend)
        open_images: deque[OpenImage] = deque()
        for image in images:
            views = self.plan.views(image.width, image.height)
            open_images.append(OpenImage(image.width, image.height, len(views)))
            on_device = image.to(self.backend.upload)
            for view in views:
                pixels, factor = on_device.seen_by(view)
                batcher.add(open_images[-1], view.snapped(factor), pixels, factor=factor)
                del pixels
            del image, on_device
            while open_images and not open_images[0].waiting:
                yield open_images.popleft().merged(self.merge, self.plan.tiling)
        batcher.flush()
        for finished in open_images:
            yield finished.merged(self.merge, self.plan.tiling)


@cache
def _say_once(remark: str) -> None:
    log.info("an image has %s", remark)
