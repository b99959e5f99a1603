"""In which batches an epoch shows the records: shuffled, one process's part, and plain ones at the end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from tilewise.arrays import Float64, Int64
from tilewise.data.shard import Shard
from tilewise.training.dataloading.copies import Copies
from tilewise.training.dataloading.repeats import drawn_counts
from tilewise.training.dataloading.view_order import Copy, Item
from tilewise.training.dataloading.view_sampler import ViewSampler


class ImageSampler(Sampler[list[Item]]):
    """Each epoch a new order of all records, filled up to whole batches from its own beginning.

    Every item carries a seed, so that an epoch's augmentation does not depend on the number of workers.

    Args:
        count: the number of records.
        batch_size: of the batches.
        seed: of the order.
        repeats: how often to show each record, see :func:`repeat_factors`; None for once.
        copies: the records that come once more with objects pasted.

    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        repeats: Float64 | None = None,
        copies: Copies | None = None,
    ):
        self.count, self.batch_size, self.seed, self.repeats = count, batch_size, seed, repeats
        self.copies = copies
        self.epoch = 0

    def __len__(self) -> int:
        shown = self.count if self.repeats is None else round(float(self.repeats.sum()))
        return -(-(shown + len(self.copies or ())) // self.batch_size)

    def __iter__(self) -> Iterator[list[Item]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        shown: int | Int64 = self.count
        if self.repeats is not None:
            shown = np.repeat(np.arange(self.count), drawn_counts(self.repeats, rng))
        if self.copies:
            own = np.arange(self.count) if self.repeats is None else shown
            shown = np.append(own, self.count + np.arange(len(self.copies)))
        order = np.resize(rng.permutation(shown), len(self) * self.batch_size)
        seeds = rng.integers(2**63, size=len(order))
        items: list[Item] = [
            (self._image(number, seed), None, seed)
            for number, seed in zip(order.tolist(), seeds.tolist(), strict=True)
        ]
        for start in range(0, len(items), self.batch_size):
            yield items[start : start + self.batch_size]

    def _image(self, number: int, seed: int) -> int | Copy:
        if number < self.count:
            return number
        assert self.copies is not None
        return Copy(self.copies.indices[number - self.count], seed)


class ShardSampler(Sampler[list[Item]]):
    """A process's part of an epoch's batches, which all processes draw alike: every one has as many.

    Args:
        batches: those of all processes.
        shard: this one's part.
        steps: how many each has; None where all draw from the same images. With ``ShardedByS3Key`` the hosts
            have different images: give the largest number of any, and those with fewer begin anew.

    Attributes:
        start: so many batches of the epoch are passed over: they were learnt before the job was interrupted.

    """

    def __init__(self, batches: ImageSampler | ViewSampler, shard: Shard, steps: int | None = None):
        self.batches, self.shard = batches, shard
        self.steps = -(-len(batches) // shard.count) if steps is None else steps
        self.start = 0

    @property
    def epoch(self) -> int:
        """Set it before each epoch."""
        return self.batches.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.batches.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Item]]:
        next_number = self.shard.index + self.start * self.shard.count
        for number, batch in enumerate(islice(cycle(self.batches), self.steps * self.shard.count)):
            if number == next_number:
                yield batch
                next_number += self.shard.count


class PlainLater(Sampler[list[Any]]):
    """The batches of a sampler, whose items have negative seeds from an epoch on: see :data:`Item`.

    Args:
        batches: the sampler.
        plain_from: that epoch.

    """

    def __init__(self, batches: Any, plain_from: int):
        self.batches, self.plain_from = batches, plain_from

    @property
    def epoch(self) -> int:
        """Set it before each epoch."""
        return int(self.batches.epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.batches.epoch = epoch

    @property
    def start(self) -> int:
        """So many batches of the epoch are passed over."""
        return int(self.batches.start)

    @start.setter
    def start(self, start: int) -> None:
        self.batches.start = start

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        plain = self.epoch >= self.plain_from
        for batch in self.batches:
            yield [(image, view, ~seed) for image, view, seed in batch] if plain else batch
