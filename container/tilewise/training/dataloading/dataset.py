"""A view of a record -> a training sample: decoded, cut out and augmented."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from tilewise.augment.transform import Draft, Transform
from tilewise.data.decode import DecodedImage, DecodeError, decode_reduced
from tilewise.data.records import Record, Records
from tilewise.training.dataloading.image_cache import ImageCache
from tilewise.training.dataloading.pipe_sampler import PipeItem
from tilewise.training.dataloading.view_order import Item
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.sample import MIN_VISIBILITY, Sample, make_sample
from tilewise.views.view import Scaling, View, whole_image


class TrainingDataset(Dataset[Sample | tuple[str, str]]):
    """One random view of a record; an item is ``(key, reason)`` where the image cannot be decoded.

    Records are asked for by their index, or given as they are where they came through a pipe.

    Args:
        records: of the training data.
        scaling: of views of whole images.
        augmentations: what varies the samples of a batch, in this order.
        min_visibility: see :func:`make_sample`.
        cache_bytes: decoded images to keep.
        rendering: of the images.

    """

    def __init__(
        self,
        records: Records,
        scaling: Scaling,
        augmentations: Sequence[Transform] = (),
        *,
        min_visibility: float = MIN_VISIBILITY,
        cache_bytes: int = 0,
        rendering: Rendering = AS_STORED,
    ):
        self.records = records
        self.scaling = scaling
        self.augmentations = augmentations
        self.min_visibility = min_visibility
        self.images = ImageCache(cache_bytes)
        self.rendering = rendering

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: Item | PipeItem) -> Sample | tuple[str, str]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[Item | PipeItem]) -> list[Sample | tuple[str, str]]:
        """Those of a batch: each kind of work for all of them before the next, an eighth faster so."""
        rngs = [np.random.default_rng(seed) for _, _, seed in items]
        records = [image if isinstance(image, Record) else self.records[image] for image, _, _ in items]
        drafts: Sequence[Draft] = [
            Draft(record.width, record.height, record.targets, view)
            for record, (_, view, _) in zip(records, items, strict=True)
        ]
        for augmentation in self.augmentations:
            drafts = augmentation.change_drafts(drafts, rngs)
        results = [self._make(record, draft.view) for record, draft in zip(records, drafts, strict=True)]
        return self._augment(results, rngs)

    def _augment(
        self, results: Sequence[Sample | tuple[str, str]], rngs: Sequence[np.random.Generator]
    ) -> list[Sample | tuple[str, str]]:
        samples: Sequence[Sample] = [each for each in results if isinstance(each, Sample)]
        own = [rng for each, rng in zip(results, rngs, strict=True) if isinstance(each, Sample)]
        for augmentation in self.augmentations:
            samples = augmentation.change_samples(samples, own)
        changed = iter(samples)
        return [next(changed) if isinstance(each, Sample) else each for each in results]

    def _make(self, record: Record, view: View | None) -> Sample | tuple[str, str]:
        if view is None:
            (view,) = whole_image(record.width, record.height, self.scaling)
        # An image that other views need too is decoded whole, and kept.
        factor = 1 if self.images.capacity else view.reduction
        try:
            image = self.images.get(record.key, lambda: decode_record(record, factor, self.rendering))
        except (DecodeError, OSError) as error:
            return record.key, str(error)
        pixels, factor = image.to(torch.as_tensor).seen_by(view)
        return make_sample(
            pixels, record.targets, view.snapped(factor), min_visibility=self.min_visibility, factor=factor
        )


def decode_record(record: Record, factor: int, rendering: Rendering) -> DecodedImage:
    """A record's image, reduced by ``factor`` if that is cheap.

    Raises:
        DecodeError: it is damaged, or another one than when the job began.

    """
    picture = decode_reduced(record.source, lambda width, height: factor, rendering=rendering)
    if (picture.width, picture.height) != (record.width, record.height):
        raise DecodeError(
            f"it has {picture.width} x {picture.height} pixels now: it was changed during the job"
        )
    return picture
