"""Running statistics of batch normalisation, computed anew before a model is validated or kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from tilewise.models.detector import VisionModel
from tilewise.targets import Targets
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.dataset import TrainingDataset
from tilewise.training.dataloading.image_cache import ImageCache
from tilewise.training.dataloading.loader import collate
from tilewise.training.dataloading.samplers import ImageSampler
from tilewise.training.dataloading.view_order import Item, index_of
from tilewise.training.dataloading.view_sampler import ViewSampler
from tilewise.views.sample import Sample

log = logging.getLogger(__name__)

FEW_IMAGES = 32
"""Statistics are of the views of so many images at least: those of fewer are one-sided."""

PIXELS = 256 * 320 * 320
"""Random views of so many pixels tell the statistics anew, in four batches at least."""

KEPT_PIXELS = PIXELS // 4
"""Of the views of a pipe, which must be kept in memory, in four batches at least."""

SHARE = 4
"""At most one in so many of an epoch's batches, unless it has hardly any: each costs a forward pass."""

_NO_TARGETS = Targets.none().to("cpu")


class NormalisationStatistics:
    """Computes the running statistics of a model anew, of random views of an epoch, before it is validated.

    Running statistics are those of the last few dozen batches. They lag behind weights that still change
    fast; those of averaged weights are not the average of theirs (Izmailov et al., arXiv 1803.05407, section
    3.2); and where large images are looked at in many views each, the last batches are of a few images. A
    model can learn well and find nothing when it is validated (benchmarks/README.md, "Statistics before
    validation"). The images of a pipe cannot be had again: there some batches of each epoch are kept.

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
        self.sampler = sampler if isinstance(sampler, ImageSampler | ViewSampler) else None
        self._kept: list[Batch] = []
        self._said = False

    def keep(self, batch: Batch, epoch: int, number: int) -> None:
        """Of a pipe, keep random batches: each of an epoch's first ``number`` with the same chance."""
        if self.sampler is not None or not batch.area:
            return
        room = max(4, KEPT_PIXELS // batch.area)
        place = len(self._kept)
        if place >= room:
            place = int(np.random.default_rng((self.seed, epoch, number)).integers(number))
        if place < room:
            # a loader's memory is not kept
            views = replace(batch, pixels=batch.pixels.clone(), targets=_NO_TARGETS, counts=[0] * len(batch))
            self._kept[place : place + 1] = [views]

    def forget(self) -> None:
        """What was kept of an epoch that is over."""
        self._kept = []

    def state_dict(self) -> list[dict[str, Any]]:
        """For a checkpoint in the middle of an epoch of a pipe."""
        return [{"pixels": each.pixels, "sizes": list(map(list, each.sizes))} for each in self._kept]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._kept = [
            Batch(each["pixels"], _NO_TARGETS, [(h, w) for h, w in each["sizes"]], [0] * len(each["sizes"]))
            for each in state
        ]

    @torch.no_grad()
    def refresh(self, model: VisionModel, epoch: int) -> None:
        """Compute those of a model, whose weights stay as they are."""
        frozen = {id(norm) for norm in model.frozen_norms}
        norms = [
            norm
            for norm in model.modules()
            if isinstance(norm, _BatchNorm) and norm.track_running_stats and id(norm) not in frozen
        ]
        if not norms:
            return
        batches = self._kept if self.sampler is None else self._batches(self.sampler, epoch)
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
        if not self._said:
            log.info(
                "before each validation, statistics of normalisation are computed anew, of %d random batches",
                len(batches),
            )
            self._said = True

    def _batches(self, sampler: ImageSampler | ViewSampler, epoch: int) -> list[Batch]:
        """Batches of views of random images, each of which is decoded once.

        They have the seeds of plain epochs: validation sees no mosaics.
        """
        assert isinstance(self.dataset, TrainingDataset)
        dataset = copy(self.dataset)
        dataset.images = ImageCache(1)  # the last one; those of the training stay where they are
        width, height = dataset.scaling.size_of(1, 1)
        count = max(4, min(PIXELS // (sampler.batch_size * width * height), len(sampler) // SHARE))
        groups: Iterable[list[Item]]
        if isinstance(sampler, ViewSampler):
            rng = np.random.default_rng((self.seed, epoch, count))
            groups = _by_image(sampler.first, count * sampler.batch_size, rng)
        else:
            images = copy(sampler)
            images.epoch = epoch
            groups = islice(images, count)
        samples: list[Sample] = []
        for items in groups:
            plain = [(image, view, min(seed, ~seed)) for image, view, seed in items]
            samples += [each for each in dataset.__getitems__(plain) if isinstance(each, Sample)]
        return [collate(list(samples[number::count])) for number in range(min(count, len(samples)))]


def _by_image(
    batches: Iterable[Sequence[Item]], count: int, rng: np.random.Generator
) -> Iterator[list[Item]]:
    """So many random views of an epoch or a few more, image by image; fewer where there are not so many.

    They are of a few dozen images, and have the size of validation's views.
    """
    of_image: dict[int, list[Item]] = {}
    for item in chain.from_iterable(batches):
        of_image.setdefault(index_of(item[0]), []).append(item)
    images = list(of_image.values())
    most = -(-count // min(FEW_IMAGES, len(images)))
    views = np.array([len(items) for items in images])
    for number in np.argsort(rng.exponential(size=len(images)) / views).tolist():  # the more the sooner
        items = images[number]
        yield [items[chosen] for chosen in rng.permutation(len(items))[:most].tolist()]
        count -= min(most, len(items))
        if count <= 0:
            return
