"""Images that come once more in an epoch, with objects pasted into them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tilewise.augment.copy_paste import ALWAYS_FREE, CopyPaste
from tilewise.data.records import Record, Records
from tilewise.training.dataloading.view_order import Copy

log = logging.getLogger(__name__)

KEPT_EPOCHS = 8
"""In so many epochs a copy shows the same: where images stay decoded, it is pasted once for all of them. In
each epoch one in so many is drawn anew."""

KEPT_RECORDS = 10_000
"""The targets of so many copies are kept."""


@dataclass(frozen=True)
class Copies:
    """The images of files that come once more: those with small objects, and room for at least one.

    Attributes:
        copy_paste: what is pasted into them.
        indices: of their records, each as often as it comes.

    """

    copy_paste: CopyPaste
    indices: Sequence[int]
    _pasted: dict[Copy, Record] = field(default_factory=dict)

    @staticmethod
    def of(copy_paste: CopyPaste, records: Records) -> Copies:
        """Those of a training's records; the log counts them."""
        with_small, added = _first_copies(copy_paste, records)
        copied = [index for index, count in zip(with_small, added, strict=True) if count]
        log.info(
            "copy_paste: %d of %d images hold small objects; %d of them come %s more in an epoch, with some "
            "%d objects pasted, and in %d nothing finds room",
            len(with_small),
            len(records),
            len(copied),
            "once" if copy_paste.repeats == 1 else f"{copy_paste.repeats} times",
            copy_paste.repeats * sum(added),
            len(with_small) - len(copied),
        )
        return Copies(copy_paste, copied * copy_paste.repeats)

    def __len__(self) -> int:
        return len(self.indices)

    def draw(self, seed: int, epoch: int) -> list[Copy]:
        """Those of an epoch of a job with that seed."""
        first, second = (
            np.random.default_rng((seed, turn, len(self))).integers(2**63, size=len(self))
            for turn in (epoch // KEPT_EPOCHS, epoch // KEPT_EPOCHS + 1)
        )
        changed = epoch % KEPT_EPOCHS + np.arange(len(self)) % KEPT_EPOCHS >= KEPT_EPOCHS
        seeds = np.where(changed, second, first).tolist()
        return [Copy(index, seed) for index, seed in zip(self.indices, seeds, strict=True)]

    def pasted(self, copy: Copy, record: Record) -> Record:
        """See :func:`pasted`."""
        if copy not in self._pasted:
            while len(self._pasted) >= KEPT_RECORDS:
                del self._pasted[next(iter(self._pasted))]
            self._pasted[copy] = pasted(self.copy_paste, copy, record)
        return self._pasted[copy]


def pasted(copy_paste: CopyPaste, copy: Copy, record: Record) -> Record:
    """A record with the targets of what is pasted into its copy, too."""
    donor = copy.donor.targets if copy.donor else None
    plan = copy_paste.plan(record.targets, record.width, record.height, seed=copy.seed, donor=donor)
    return replace(record, targets=plan.targets) if plan else record


def copies_per_image(copy_paste: CopyPaste | None, records: Records) -> float:
    """How many copies of an image an epoch shows, on average."""
    if copy_paste is None or not len(records):
        return 0.0
    _, added = _first_copies(copy_paste, records)
    return copy_paste.repeats * sum(map(bool, added)) / len(records)


def _first_copies(copy_paste: CopyPaste, records: Records) -> tuple[list[int], list[int]]:
    """The indices of the records with small objects, and how many are pasted into each where any are."""
    small = ~records.targets.ignored & (records.object_sizes < copy_paste.max_size)
    image = np.repeat(np.arange(len(records)), records.object_counts)
    indices: list[int] = np.unique(image[small]).tolist()
    first = [(records[index], Copy(index, ALWAYS_FREE)) for index in indices]
    added = [len(pasted(copy_paste, copy, record).targets) - len(record.targets) for record, copy in first]
    return indices, added
