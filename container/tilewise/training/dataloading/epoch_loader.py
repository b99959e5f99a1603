from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DataLoader

from tilewise.data.source import RecordSource
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.loader import read_batch
from tilewise.training.dataloading.samplers import PlainLater


class EpochLoader:
    """The batches of one epoch after the other; loader processes may begin with the next one ahead of time.

    Args:
        source: the training data.
        loader: of its batches, from :func:`tilewise.training.dataloading.loader.make_loader`.
        copies_per_image: how many copies with pasted objects an epoch shows for each image, about.

    Attributes:
        share: of its batches that an epoch has, the first ones of its order, at least one; of a pipe all.

    """

    def __init__(
        self, source: RecordSource, loader: DataLoader[Batch | bytes], copies_per_image: float = 0.0
    ):
        self.source, self.loader, self.copies_per_image = source, loader, copies_per_image
        self.share = 1.0
        self._prefetched: Iterator[Batch | bytes] | None = None

    @property
    def known_batches(self) -> int | None:
        """How many an epoch has; None where its images come through a pipe."""
        return max(1, round(self.share * len(self.loader))) if self.source.known_length else None

    def expected_batches(self, images_a_step: int) -> int:
        """How many an epoch has, as far as is known; all processes together take so many images a step."""
        known = self.known_batches
        if known is not None:
            return known
        return -(-round(self.source.expected_images * (1 + self.copies_per_image)) // images_a_step)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch | bytes]:
        """Those of an epoch, from one on, for :meth:`read`: the ones that were prefetched, if any were."""
        prefetched, self._prefetched = self._prefetched, None
        begun = self._begin(epoch, start) if prefetched is None else prefetched
        return self._share_of(begun, start)

    def plan(self, share: float, *, plain_from: int) -> None:
        """Epochs have such a share of their batches, and no view of several from another epoch on."""
        self.share = share
        if isinstance(self.loader.batch_sampler, PlainLater):
            self.loader.batch_sampler.plain_from = plain_from

    def prefetch(self, epoch: int) -> None:
        """Let loader processes begin with an epoch, where the source has its images already."""
        if self.source.supports_random_access:
            self._prefetched = self._begin(epoch)

    def read(self, sent: Batch | bytes) -> Batch:
        """A batch as it came; its damaged images are noted.

        Raises:
            UserError: too many images are damaged.

        """
        batch = read_batch(sent)
        for key, reason in batch.damaged:
            self.source.issues.leave_out(key, reason)
        return batch

    def _share_of(self, batches: Iterator[Batch | bytes], number: int) -> Iterator[Batch | bytes]:
        while (known := self.known_batches) is None or number < known:  # it may change meanwhile
            try:
                yield next(batches)
            except StopIteration:
                return
            number += 1

    def _begin(self, epoch: int, start: int = 0) -> Iterator[Batch | bytes]:
        assert self.loader.batch_sampler is not None
        self.loader.batch_sampler.epoch = epoch  # type: ignore[attr-defined]
        self.loader.batch_sampler.start = start  # type: ignore[attr-defined]
        return iter(self.loader)
