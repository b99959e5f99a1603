from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar, Protocol, Self, TypeVar

import numpy as np

from tilewise.arrays import Int64
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.data.shard import Shard

Batches_co = TypeVar("Batches_co", covariant=True)


class RecordSource(ABC):
    """Where a job's records come from: the files of a channel, or its pipe. All that a job may ask of either.

    Attributes:
        issues: what became of the images and boxes that cannot be used.
        sample: the records to know the data by: all of them, or where they come through a pipe the first.
        known_length: whether the number of the records is known before they have been seen. Where it is not,
            a pass may end early when the job is to stop.
        supports_random_access: whether any record can be had at any time, and again.
        seen_here: whether this process sees the records; another one of its host may see them for it.

    """

    issues: ChannelIssues
    sample: Records
    known_length: ClassVar[bool]
    supports_random_access: ClassVar[bool]
    seen_here: ClassVar[bool] = True

    @property
    @abstractmethod
    def expected_images(self) -> int:
        """How many images a pass has, as far as that is known."""

    @abstractmethod
    def one_pass(self) -> Iterable[Record]:
        """Each record once."""

    @abstractmethod
    def part(self) -> Iterable[Record]:
        """Of one pass what is for this process, which evaluates together with others."""

    @abstractmethod
    def batches(self, maker: BatchMaker[Batches_co]) -> Batches_co:
        """The batches of an epoch, as ``maker`` has them for a source of this kind."""

    @abstractmethod
    def relabel(self, labels: Int64) -> Self:
        """These records, with ``labels[label]`` in place of each ``label``."""

    def finish_pass(self) -> None:  # noqa: B027  # files have nothing to do here
        """Look back at a whole pass, when all of its images have been used.

        Raises:
            UserError: too many of them could not be used.

        """

    def close(self) -> None:  # noqa: B027
        """Let go of what is open."""


class PipedRecords(Protocol):
    """The records of a pipe, as the process sees them that reads it."""

    channel: str

    @property
    def memory(self) -> int:
        """How many bytes of encoded images may wait at a time."""

    def shuffled(self, rng: np.random.Generator, start: int) -> Iterator[Record]:
        """The records of the next pass in a random order, drawn as soon as ``start`` of them have come."""


class BatchMaker(Protocol[Batches_co]):
    """Makes an epoch's batches, in a way of its own for each kind of source."""

    def from_files(self, records: Records, shard: Shard) -> Batches_co:
        """Of records that can be had in any order; ``shard`` is this process's part of the batches."""

    def from_pipe(self, stream: PipedRecords) -> Batches_co:
        """Of records as they come; this process reads them for all of its host."""

    def from_reader(self, channel: str) -> Batches_co:
        """Of a channel whose pipe another process of this host reads."""
