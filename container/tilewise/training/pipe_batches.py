"""Batches of the records of a pipe: whole ones, and the same number for every rank of every host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from torch.utils.data import Sampler

from tilewise.data.records import Record
from tilewise.data.stream import Stream
from tilewise.errors import UserError
from tilewise.training.hand_out import HandOut, Receiver

KEPT_SHARE = 7
"""The first records of an epoch are kept to fill up its end, in this part of what the pipe's buffer holds."""

Item = tuple[Record, int]


class PipeBatches(Sampler[list[Item]]):
    """Each epoch the next pass of a pipe, shuffled, in whole batches: one rank of a host reads for all.

    Each step takes a batch for every rank. The end of an epoch is filled up with records from its beginning,
    and so is every further step that another host still needs. Each item carries a seed for its augmentation.

    Args:
        stream: what the pipe brings.
        batch_size: of one rank.
        seed: of order and augmentation.
        hand_out: takes the batches of the host's other ranks.
        any_host_has_more: asked before each step whether this host has records left, and answers whether any
            host has.

    Attributes:
        epoch: set it before each epoch; a pipe's passes come one after the other, whatever it is.

    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        seed: int,
        hand_out: HandOut | None = None,
        any_host_has_more: Callable[[bool], bool] = bool,
    ):
        self.stream, self.batch_size, self.seed, self.hand_out = stream, batch_size, seed, hand_out
        self.any_host_has_more = any_host_has_more
        self.epoch = 0

    def __iter__(self) -> Iterator[list[Item]]:
        if self.hand_out is None:
            yield from self._steps(1)
            return
        others = range(1, self.hand_out.ranks)
        try:
            for step in self._steps(self.hand_out.ranks):
                for rank in others:
                    self.hand_out.send(rank, step[rank :: self.hand_out.ranks])
                yield step[:: self.hand_out.ranks]
        except UserError as error:
            self.hand_out.send_all(str(error))
            raise
        self.hand_out.send_all(None)

    def _steps(self, ranks: int) -> Iterator[list[Item]]:
        """The items of one step of all ranks of this host."""
        rng = np.random.default_rng((self.seed, self.epoch))
        count = ranks * self.batch_size
        records = self.stream.shuffled(rng, start=count)
        kept: list[Record] = []
        room = self.stream.pipe.buffer.limit // KEPT_SHARE
        position = 0
        while True:
            step = list(islice(records, count))
            if not self.any_host_has_more(bool(step)):
                return
            for record in step[: max(0, count - len(kept))]:
                room -= record.length
                if room >= 0 or not kept:
                    kept.append(record)
            if not kept:
                raise UserError(
                    f"channel {self.stream.channel}: no image of this host's part can be used, but other "
                    "hosts have some: give each host several files, or use S3DataDistributionType "
                    "FullyReplicated"
                )
            while len(step) < count:
                step.append(kept[position % len(kept)])
                position += 1
            yield list(zip(step, rng.integers(2**63, size=count).tolist(), strict=True))


class ReceivedBatches(Sampler[list[Item]]):
    """The batches of a rank that does not read the pipe itself.

    Attributes:
        epoch: not used; the rank that reads says where one ends.

    """

    def __init__(self, receiver: Receiver):
        self.receiver = receiver
        self.epoch = 0

    def __iter__(self) -> Iterator[list[Item]]:
        while (batch := self.receiver.receive()) is not None:
            yield batch
