"""Running statistics of batch normalisation, where an epoch's last batches are of a few images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from tilewise.models.detector import VisionModel
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.dataset import TrainingDataset
from tilewise.training.dataloading.image_cache import ImageCache
from tilewise.training.dataloading.loader import collate
from tilewise.training.dataloading.view_order import Item, index_of
from tilewise.training.dataloading.view_sampler import ViewSampler
from tilewise.views.sample import Sample

log = logging.getLogger(__name__)

FEW_IMAGES = 32
"""Statistics are those of the last few dozen batches: of fewer images they are one-sided."""

SEVERAL = 2
"""Images with fewer views each, on average, come one after the other."""

VIEWS = 256
"""About so many random views tell the statistics anew, in four to sixteen batches."""


class NormalisationStatistics:
    """Computes the running statistics of a model anew, over random views of an epoch, before it is validated.

    That is needed where large images are looked at in many views each: decoded once, a few of them fill the
    last batches of an epoch. Elsewhere nothing happens.

    Args:
        loader: of the training views.
        seed: of the job.

    """

    def __init__(self, loader: DataLoader[Any], seed: int):
        self.seed = seed
        self.dataset = loader.dataset
        sampler: Any = loader.batch_sampler
        while hasattr(sampler, "batches"):
            sampler = sampler.batches
        self.views = sampler if isinstance(sampler, ViewSampler) and _few(sampler) else None

    @torch.no_grad()
    def refresh(self, model: VisionModel, epoch: int) -> None:
        """Compute those of a model, whose weights stay as they are."""
        frozen = {id(norm) for norm in model.frozen_norms}
        norms = [
            norm
            for norm in model.modules()
            if isinstance(norm, _BatchNorm) and norm.track_running_stats and id(norm) not in frozen
        ]
        batches = self._batches(self.views, epoch) if self.views and norms else []
        if not batches:
            return
        device = next(model.parameters()).device
        was_training, momenta = model.training, [norm.momentum for norm in norms]
        model.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        try:
            for batch in batches:
                model.outputs(model.transform([sample.pixels for sample in batch.samples(device)]))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            model.train(was_training)
        log.info(
            "statistics of normalisation are of %d random batches: an epoch ends with few images",
            len(batches),
        )

    def _batches(self, views: ViewSampler, epoch: int) -> list[Batch]:
        """Batches of views of a few dozen random images, each of which is decoded once."""
        assert isinstance(self.dataset, TrainingDataset)
        dataset = copy(self.dataset)
        dataset.images = ImageCache(1)  # the last one; those of the training stay where they are
        count = min(max(VIEWS // views.batch_size, 4), 16)
        samples: list[Sample] = []
        rng = np.random.default_rng((self.seed, epoch, count))
        for items in _by_image(views.first, count * views.batch_size, rng):
            samples += [each for each in dataset.__getitems__(items) if isinstance(each, Sample)]
        return [collate(list(samples[number::count])) for number in range(min(count, len(samples)))]


def _by_image(
    batches: Iterable[Sequence[Item]], count: int, rng: np.random.Generator
) -> Iterator[list[Item]]:
    """So many random views of an epoch or a few more, image by image; fewer where there are not so many.

    They have the size of validation's views, and the seeds of plain epochs: validation sees no mosaics.
    """
    of_image: dict[int, list[Item]] = {}
    for image, view, seed in chain.from_iterable(batches):
        of_image.setdefault(index_of(image), []).append((image, view, min(seed, ~seed)))
    images = list(of_image.values())
    most = -(-count // min(FEW_IMAGES, len(images)))
    views = np.array([len(items) for items in images])
    for number in np.argsort(rng.exponential(size=len(images)) / views).tolist():  # the more the sooner
        items = images[number]
        yield [items[chosen] for chosen in rng.permutation(len(items))[:most].tolist()]
        count -= min(most, len(items))
        if count <= 0:
            return


def _few(sampler: ViewSampler) -> bool:
    many_views = len(sampler) * sampler.batch_size >= SEVERAL * len(sampler.records)
    return many_views and sampler.lanes * sampler.pool < min(FEW_IMAGES, len(sampler.records))
