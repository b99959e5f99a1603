"""A view of a record -> a training sample: decoded, cut out and augmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from tilewise.augment.sample import augment_sample
from tilewise.augment.window import SSD_WINDOWS, TILE_WINDOWS, random_window
from tilewise.data.decode import DecodedImage, DecodeError, decode_reduced
from tilewise.data.records import Record, Records
from tilewise.training.dataloading.image_cache import ImageCache
from tilewise.training.dataloading.pipe_sampler import PipeItem
from tilewise.training.dataloading.view_order import Item
from tilewise.views.sample import MIN_VISIBILITY, Sample, make_sample
from tilewise.views.view import Scaling, View, whole_image


class TrainingDataset(Dataset[Sample | tuple[str, str]]):
    """One random view of a record; an item is ``(key, reason)`` where the image cannot be decoded.

    Records are asked for by their index, or given as they are where they came through a pipe.

    Args:
        records: of the training data.
        scaling: of views of whole images.
        min_visibility: see :func:`make_sample`.
        random_windows: whether a view's window is varied; otherwise it is only mirrored and coloured.
        cache_bytes: decoded images to keep.

    """

    def __init__(
        self,
        records: Records,
        scaling: Scaling,
        min_visibility: float = MIN_VISIBILITY,
        random_windows: bool = True,
        cache_bytes: int = 0,
    ):
        self.records = records
        self.scaling = scaling
        self.min_visibility = min_visibility
        self.random_windows = random_windows
        self.images = ImageCache(cache_bytes)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: Item | PipeItem) -> Sample | tuple[str, str]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[Item | PipeItem]) -> list[Sample | tuple[str, str]]:
        """Those of a batch: each kind of work for all of them before the next, an eighth faster so."""
        drawn = [self._draw(item) for item in items]
        made = [self._make(record, view) for record, view, _ in drawn]
        return [
            augment_sample(each, rng) if isinstance(each, Sample) else each
            for each, (_, _, rng) in zip(made, drawn, strict=True)
        ]

    def _draw(self, item: Item | PipeItem) -> tuple[Record, View, np.random.Generator]:
        asked, view, seed = item
        record = asked if isinstance(asked, Record) else self.records[asked]
        rng = np.random.default_rng(seed)
        if self.random_windows:
            view = random_view(record, view, self.scaling, rng)
        elif view is None:
            (view,) = whole_image(record.width, record.height, self.scaling)
        return record, view, rng

    def _make(self, record: Record, view: View) -> Sample | tuple[str, str]:
        # An image that other views need too is decoded whole, and kept.
        factor = 1 if self.images.capacity else view.reduction
        try:
            image = self.images.get(record.key, lambda: decode_record(record, factor))
        except (DecodeError, OSError) as error:
            return record.key, str(error)
        return make_sample(
            image.pixels,
            record.targets,
            view.snapped(image.factor),
            self.min_visibility,
            image.factor,
        )


def decode_record(record: Record, factor: int) -> DecodedImage:
    """A record's image, reduced by ``factor`` if that is cheap.

    Raises:
        DecodeError: it is damaged, or another one than when the job began.

    """
    picture = decode_reduced(record.read(), lambda width, height: factor)
    if (picture.width, picture.height) != (record.width, record.height):
        raise DecodeError(
            f"it has {picture.width} x {picture.height} pixels now: it was changed during the job"
        )
    return picture


def random_view(record: Record, view: View | None, scaling: Scaling, rng: np.random.Generator) -> View:
    """A random window of an image, or of a view of it, scaled to at most that view's size.

    A tile's objects keep nearly the size that the tile is there for.
    """
    if view is None:
        window = random_window(record.width, record.height, record.targets.boxes, rng)
        return View(window, scaling.size_of(window[2] - window[0], window[3] - window[1]))
    x0, y0, x1, y1 = view.window
    boxes = record.targets.boxes - np.array([x0, y0, x0, y0], np.float32)
    variety = SSD_WINDOWS if view.window == (0, 0, record.width, record.height) else TILE_WINDOWS
    left, top, right, bottom = random_window(x1 - x0, y1 - y0, boxes, rng, variety)
    if scaling.square is None:
        limits = Scaling(min_size=min(view.size), max_size=max(view.size))
        view = replace(view, size=limits.size_of(right - left, bottom - top))
    return replace(view, window=(x0 + left, y0 + top, x0 + right, y0 + bottom))
