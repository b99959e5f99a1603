"""Running statistics of batch normalisation, where an epoch's last batches are of a few images."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from tilewise.models.detector import VisionModel
from tilewise.training.dataloading.dataset import TrainingDataset
from tilewise.training.dataloading.loader import collate
from tilewise.training.dataloading.view_order import Item
from tilewise.training.dataloading.view_sampler import ViewSampler

log = logging.getLogger(__name__)

FEW_IMAGES = 32
"""Statistics are those of the last few dozen batches: of fewer images they are one-sided."""

BATCHES = 16
"""So many random batches tell the statistics anew."""


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
        self.samples = loader.dataset
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
        if self.views is None or not norms:
            return
        was_training, momenta = model.training, [norm.momentum for norm in norms]
        model.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        try:
            for batch in self._batches(self.views, epoch):
                self._pass(model, batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            model.train(was_training)
        log.info(
            "statistics of normalisation are of %d random batches: an epoch ends with few images", BATCHES
        )

    def _batches(self, views: ViewSampler, epoch: int) -> list[list[Item]]:
        items = [item for batch in views.first for item in batch]
        rng = np.random.default_rng((self.seed, epoch, BATCHES))
        chosen = rng.permutation(len(items))[: BATCHES * views.batch_size].tolist()
        size = views.batch_size
        return [[items[number] for number in chosen[at : at + size]] for at in range(0, len(chosen), size)]

    def _pass(self, model: VisionModel, items: list[Item]) -> None:
        assert isinstance(self.samples, TrainingDataset)
        batch = collate(self.samples.__getitems__(items))
        if not batch:
            return
        device = next(model.parameters()).device
        images = [sample.pixels for sample in batch.samples(device)]
        model.outputs(model.transform(images))


def _few(sampler: ViewSampler) -> bool:
    return sampler.lanes * sampler.pool < min(FEW_IMAGES, len(sampler.records))
