"""Batches of the records of a pipe: whole ones, and the same number for every rank of every host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from torch.utils.data import Sampler

from tilewise.data.records import Record
from tilewise.data.source import PipedRecords
from tilewise.errors import UserError
from tilewise.training.dataloading.batch_server import BatchClient, BatchServer
from tilewise.training.dataloading.view_sampler import one_view, scaled
from tilewise.views.view import View

KEPT_SHARE = 7
"""The first records of an epoch are kept to fill up its end, in this part of what the pipe's buffer holds."""

PipeItem = tuple[Record, View | None, int]
"""A record, the view of it to train on (None: the whole image), and the seed of its augmentation."""


class PipeSampler(Sampler[list[PipeItem]]):
    """Each epoch the next pass of a pipe, shuffled, in whole batches: one rank of a host reads for all.

    Each step takes a batch for every rank. The end of an epoch is filled up with records from its beginning,
    and so is every further step that another host still needs. Each item carries a seed for its augmentation.

    Args:
        stream: what the pipe brings.
        batch_size: of one rank.
        seed: of order and augmentation.
        draw: the view of a record; None for its whole image.
        factors: that the size of a step's views is multiplied by; one is drawn for each.
        batch_server: takes the batches of the host's other ranks.
        any_host_has_more: asked before each step whether this host has records left, and answers whether any
            host has.

    Attributes:
        epoch: set it before each epoch; a pipe's passes come one after the other, whatever it is.
        start: so many steps of the epoch are read and passed over: they were learnt before the job was
            interrupted. What they draw is as it was where the images come in the same order.

    """

    def __init__(
        self,
        stream: PipedRecords,
        batch_size: int,
        seed: int,
        *,
        draw: Callable[[Record, np.random.Generator], View | None] = one_view,
        factors: Sequence[float] = (1.0,),
        batch_server: BatchServer | None = None,
        any_host_has_more: Callable[[bool], bool] = bool,
    ):
        self.stream, self.batch_size, self.seed, self.batch_server = stream, batch_size, seed, batch_server
        self.draw, self.factors, self.any_host_has_more = draw, factors, any_host_has_more
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[PipeItem]]:
        if self.batch_server is None:
            yield from islice(self._steps(1), self.start, None)
            return
        others = range(1, self.batch_server.ranks)
        try:
            for step in islice(self._steps(self.batch_server.ranks), self.start, None):
                for rank in others:
                    self.batch_server.send(rank, step[rank :: self.batch_server.ranks])
                yield step[:: self.batch_server.ranks]
        except UserError as error:
            self.batch_server.send_all(str(error))
            raise
        self.batch_server.send_all(None)

    def _steps(self, ranks: int) -> Iterator[list[PipeItem]]:
        """The items of one step of all ranks of this host."""
        rng = np.random.default_rng((self.seed, self.epoch))
        count = ranks * self.batch_size
        records = self.stream.shuffled(rng, start=count)
        reserve: list[Record] = []
        room = self.stream.memory // KEPT_SHARE
        position = 0
        while True:
            step = list(islice(records, count))
            if not self.any_host_has_more(bool(step)):
                return
            for record in step[: max(0, count - len(reserve))]:
                room -= record.length
                if room >= 0 or not reserve:
                    reserve.append(record)
            if not reserve:
                raise UserError(
                    f"channel {self.stream.channel}: no image of this host's part can be used, but other "
                    "hosts have some: give each host several files, or use S3DataDistributionType "
                    "FullyReplicated"
                )
            while len(step) < count:
                step.append(reserve[position % len(reserve)])
                position += 1
            yield self._items(step, rng)

    def _items(self, records: list[Record], rng: np.random.Generator) -> list[PipeItem]:
        seeds = rng.integers(2**63, size=len(records)).tolist()
        items = [(record, self.draw(record, rng), seed) for record, seed in zip(records, seeds, strict=True)]
        if len(self.factors) == 1:
            return items
        factor = float(rng.choice(self.factors))
        return [(record, scaled(view, factor), seed) for record, view, seed in items]


class ReceivedSampler(Sampler[list[PipeItem]]):
    """The batches of a rank that does not read the pipe itself.

    Attributes:
        epoch, start: not used; the rank that reads says where one begins and ends.

    """

    def __init__(self, receiver: BatchClient):
        self.receiver = receiver
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[PipeItem]]:
        while (batch := self.receiver.receive()) is not None:
            yield batch
