"""Batches of the records of a pipe: whole ones, and the same number for every rank of every host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
from torch.utils.data import Sampler

from tilewise.augment.copy_paste import CopyPaste
from tilewise.data.records import Record
from tilewise.data.source import PipedRecords
from tilewise.errors import UserError
from tilewise.training.dataloading.batch_server import BatchClient, BatchServer
from tilewise.training.dataloading.copies import pasted
from tilewise.training.dataloading.view_order import Copy
from tilewise.training.dataloading.view_sampler import one_view, scaled
from tilewise.views.view import View

log = logging.getLogger(__name__)

KEPT_SHARE = 7
"""The first records of an epoch are kept to fill up its end, in this part of what the pipe's buffer holds."""

PipeItem = tuple[Record | Copy, View | None, int]
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
        copy_paste: how images come once more; copies wait in half of the memory that is for an epoch's end.

    Attributes:
        epoch: set it before each epoch; a pipe's passes come one after the other, whatever it is.
        start: so many steps of the epoch are read and passed over: they were learnt before the job was
            interrupted. What they draw is as it was where the images come in the same order.

    """

    def __init__(  # noqa: PLR0913  # all that decides what an epoch shows
        self,
        stream: PipedRecords,
        batch_size: int,
        seed: int,
        *,
        draw: Callable[[Record, np.random.Generator], View | None] = one_view,
        factors: Sequence[float] = (1.0,),
        batch_server: BatchServer | None = None,
        any_host_has_more: Callable[[bool], bool] = bool,
        copy_paste: CopyPaste | None = None,
    ):
        self.stream, self.batch_size, self.seed, self.batch_server = stream, batch_size, seed, batch_server
        self.draw, self.factors, self.any_host_has_more = draw, factors, any_host_has_more
        self.copy_paste = copy_paste
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
        arriving = self.stream.shuffled(rng, start=count)
        records: Iterator[Record | Copy] = arriving
        reserve: list[Record | Copy] = []
        room = self.stream.memory // KEPT_SHARE
        if self.copy_paste:
            room //= 2
            records = self._with_copies(arriving, self.copy_paste, room, rng)
        position = 0
        while True:
            step = list(islice(records, count))
            if not self.any_host_has_more(bool(step)):
                return
            for record in step[: max(0, count - len(reserve))]:
                room -= _length(record)
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

    def _with_copies(
        self, records: Iterator[Record], copy_paste: CopyPaste, room: int, rng: np.random.Generator
    ) -> Iterator[Record | Copy]:
        """The records, and among them their copies, each some time after its image."""
        waiting: list[Copy] = []
        held = images = copied = objects = 0

        def draw() -> Copy:
            nonlocal held
            index = int(rng.integers(len(waiting)))
            waiting[index], waiting[-1] = waiting[-1], waiting[index]
            held -= _length(waiting[-1])
            return waiting.pop()

        for record in records:
            yield record
            images += 1
            for _ in range(copy_paste.repeats):
                donor = None
                if copy_paste.of_others and waiting:
                    other = waiting[int(rng.integers(len(waiting)))].image
                    donor = other if isinstance(other, Record) else None
                copy = Copy(record, int(rng.integers(2**63)), donor)
                added = len(pasted(copy_paste, copy, record).targets) - len(record.targets)
                if added:
                    waiting.append(copy)
                    held += _length(copy)
                    copied, objects = copied + 1, objects + added
            while len(waiting) > 1 and held > room:
                yield draw()
        while waiting:
            yield draw()
        log.info(
            "copy_paste: %d of %d images of this pass came once more, with %d objects pasted",
            copied,
            images,
            objects,
        )

    def _view(self, image: Record | Copy, rng: np.random.Generator) -> View | None:
        if not isinstance(image, Copy):
            return self.draw(image, rng)
        assert self.copy_paste is not None and isinstance(image.image, Record)
        return self.draw(pasted(self.copy_paste, image, image.image), rng)

    def _items(self, images: list[Record | Copy], rng: np.random.Generator) -> list[PipeItem]:
        seeds = rng.integers(2**63, size=len(images)).tolist()
        items = [(image, self._view(image, rng), seed) for image, seed in zip(images, seeds, strict=True)]
        if len(self.factors) == 1:
            return items
        factor = float(rng.choice(self.factors))
        return [(image, scaled(view, factor), seed) for image, view, seed in items]


def _length(image: Record | Copy) -> int:
    """Bytes of the encoded images that it keeps in memory."""
    if not isinstance(image, Copy):
        return image.length
    assert isinstance(image.image, Record)
    return image.image.length + (image.donor.length if image.donor else 0)


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
