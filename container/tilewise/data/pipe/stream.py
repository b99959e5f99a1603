"""The images of a channel in Pipe mode: seen once in each pass, never all at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from tilewise.arrays import Int64
from tilewise.data.annotations import RawExample
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import check_example, check_objects, note_implausible
from tilewise.data.classes import ClassIds
from tilewise.data.pipe.buffer import Pipe
from tilewise.data.pipe.fifo import StopWaiting
from tilewise.data.pipe.formats import StreamItem
from tilewise.data.records import Record, Records
from tilewise.data.source import Batches_co, BatchMaker, RecordSource

log = logging.getLogger(__name__)

HEAD_IMAGES, HEAD_BYTES = 1000, 64 << 20
"""So many of the first images, or those of so many bytes, stand for all where a job has to know its data."""

UNKNOWN_COUNT = 1000
"""Where nobody says how many images a pass has, the first one is taken to have so many."""


@dataclass(frozen=True)
class _BufferedRecord:
    """A record, and how many bytes of the pipe's buffer it takes until it is released."""

    record: Record
    size: int


class Stream(RecordSource):
    """The records of a channel in Pipe mode, one pass after the other.

    The first images, those of :attr:`sample`, are looked at before the first pass begins, and are part of it.

    Args:
        channel: its name, for messages.
        pipe: reads it.
        ids: the class ids that there are.
        expected: how many images a pass has, where the job says so.
        choose: leaves of an example, whose labels are those of ``ids``, what is used.
        image_labels: whether these are labels of whole images.

    Attributes:
        issues: what became of the images and boxes of the present pass.
        sample: the first records, without their images.

    """

    known_length = supports_random_access = False

    def __init__(
        self,
        channel: str,
        pipe: Pipe,
        ids: ClassIds,
        *,
        expected: int | None = None,
        choose: Callable[[RawExample], RawExample] = lambda example: example,
        image_labels: bool = False,
    ):
        self.channel, self.pipe, self.ids, self.choose = channel, pipe, ids, choose
        self._expected = expected
        self.names: dict[int, str] = {}
        self.issues = ChannelIssues(channel, expected=expected or UNKNOWN_COUNT, image_labels=image_labels)
        self._passes = self._objects = 0
        self._labels: Int64 | None = None
        ahead = [self._check(pipe.buffer.get()) for _ in first_items(pipe)]
        self._ahead = [waiting for waiting in ahead if waiting is not None]
        self.sample = Records(waiting.record for waiting in self._ahead)
        note_implausible(self.sample, self.issues)
        self.issues.check_boxes()

    @property
    def expected_images(self) -> int:
        """How many images a pass has: as the job says, and after the first pass as it was."""
        return self._expected or len(self.sample)

    @property
    def memory(self) -> int:
        """How many bytes of encoded images may wait at a time."""
        return self.pipe.buffer.limit

    def batches(self, maker: BatchMaker[Batches_co]) -> Batches_co:
        """Those of the records as they come."""
        return maker.from_pipe(self)

    def part(self) -> Iterator[Record]:
        """All of a pass: a host's pipe brings this host's part alone."""
        return self.one_pass()

    def one_pass(self) -> Iterator[Record]:
        """The records of the next pass, in the order in which they come; ends early when the job is to stop.

        Raises:
            UserError: the pipe is damaged, or too many of its images cannot be used.

        """
        for waiting in self._next_pass():
            self.pipe.buffer.release(waiting.size)
            yield waiting.record

    def shuffled(self, rng: np.random.Generator, start: int) -> Iterator[Record]:
        """The records of the next pass in a random order.

        As many as fit into memory wait, and each time one of them is drawn. Until so many have come, one is
        drawn for every two that come, from the ``start``-th on; so the first do not have to wait for the
        rest. The order depends on ``rng`` and the order of arrival, not on time.

        Raises:
            UserError: the pipe is damaged, or too many of its images cannot be used.

        """
        buffer = self.pipe.buffer
        room = buffer.limit // 8 * 7  # what is read ahead has the rest
        waiting: list[_BufferedRecord] = []
        held = 0

        def draw() -> Record:
            nonlocal held
            index = int(rng.integers(len(waiting)))
            waiting[index], waiting[-1] = waiting[-1], waiting[index]
            drawn = waiting.pop()
            held -= drawn.size
            buffer.release(drawn.size)
            return drawn.record

        for count, arrived in enumerate(self._next_pass(), 1):
            waiting.append(arrived)
            held += arrived.size
            if count >= start and (count - start) % 2 == 0:
                yield draw()
            while held > room:
                yield draw()
        while waiting:
            yield draw()

    def finish_pass(self) -> None:
        """Look back at a whole pass, when all of its images have been used.

        Raises:
            UserError: too many of them could not be used, or there is no object to learn.

        """
        self.issues.finish_pass()
        if self.channel == "train":
            check_objects(self.channel, self._objects > 0)
        if self._passes == 1 and self._expected not in (None, self.issues.images):
            log.warning(
                "num_training_samples is %s, but the first pass of channel %s had %d images: these count",
                self._expected,
                self.channel,
                self.issues.images,
            )
        self._expected = self.issues.images

    def relabel(self, labels: Int64) -> Self:
        """Itself, which from now on gives its records other labels."""
        self._labels, self.sample = labels, self.sample.relabel(labels)
        self._ahead = [
            _BufferedRecord(self._relabelled(waiting.record), waiting.size) for waiting in self._ahead
        ]
        return self

    def _relabelled(self, record: Record) -> Record:
        if self._labels is None:
            return record
        targets = replace(record.targets, labels=self._labels[record.targets.labels])
        return replace(record, targets=targets)

    def close(self) -> None:
        """Close the pipe, in the middle of a pass if need be."""
        self.pipe.close()

    def _next_pass(self) -> Iterator[_BufferedRecord]:
        if self._passes:
            self.issues.begin_pass(self._expected or UNKNOWN_COUNT)
        self._passes += 1
        ahead, self._ahead = self._ahead, []
        yield from ahead
        try:
            for arrival in self.pipe.items():
                waiting = self._check(arrival)
                if waiting is not None:
                    yield waiting
        except StopWaiting:
            return

    def _check(self, arrival: StreamItem | None) -> _BufferedRecord | None:
        assert arrival is not None
        self.issues.images += 1
        self.names |= arrival.names
        example = self.choose(self.ids.to_labels(arrival.example, self.channel, self.names))
        record = check_example(example, arrival.info, self.issues)
        if record is None:
            self.pipe.buffer.release(arrival.size)
            self.issues.check()
            return None
        self._objects += int((~record.targets.ignored).sum())
        return _BufferedRecord(self._relabelled(record), arrival.size)


class StreamElsewhere(RecordSource):
    """A channel in Pipe mode that another process of this host reads: here it has no image.

    Args:
        channel: its name.
        expected: how many images a pass has, where the job says so.

    """

    known_length = supports_random_access = seen_here = False

    def __init__(self, channel: str, expected: int | None = None):
        self.channel = channel
        self.issues = ChannelIssues(channel, expected=expected or UNKNOWN_COUNT)
        self.sample = Records([])
        self._expected = expected or 0

    @property
    def expected_images(self) -> int:
        """How many images a pass has, as the job says; 0 where it does not."""
        return self._expected

    def batches(self, maker: BatchMaker[Batches_co]) -> Batches_co:
        """Those that the process sends which reads the pipe."""
        return maker.from_reader(self.channel)

    def relabel(self, labels: Int64) -> Self:
        """Itself: it has no record."""
        return self

    def one_pass(self) -> Iterator[Record]:
        """Nothing."""
        return iter(())

    def part(self) -> Iterator[Record]:
        """Nothing."""
        return iter(())


def first_items(pipe: Pipe) -> list[StreamItem]:
    """The first images of a pass, left where they are.

    Raises:
        UserError: the pipe is damaged there, or empty.
        StopWaiting: the job is to stop.

    """
    return pipe.buffer.peek(HEAD_IMAGES, min(HEAD_BYTES, pipe.buffer.limit // 4))
