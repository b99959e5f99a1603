from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Totals = tuple[dict[str, float], int]
"""The sums of the losses by name, and over how many batches."""


TOGETHER = 64
"""Batches whose losses are summed up at a time: a step waits for ten small operations otherwise."""


class LossMeans:
    """The means of the losses of many batches; they stay on their device until they are asked for.

    Batches whose losses are not finite are left out.

    Args:
        sums: of the losses of earlier batches.
        count: so many earlier batches.

    """

    def __init__(self, sums: Mapping[str, float] | None = None, count: int = 0) -> None:
        self._before, self._count = dict(sums or {}), count
        self.names: tuple[str, ...] = ()
        self._waiting: list[Tensor] = []  # (losses,) of each batch that is not in the sums yet
        self._sums: Tensor | None = None  # (losses + 1,): their sums, and the number of batches

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add those of a batch; none where it had no loss."""
        if not losses:
            return
        self.names = tuple(losses)
        self._waiting.append(torch.stack(list(losses.values())).detach())
        if len(self._waiting) == TOGETHER:
            self._sum_up()

    def _sum_up(self) -> None:
        if not self._waiting:
            return
        values = torch.stack(self._waiting).double()
        rows = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
        sums = torch.where(values.isfinite().all(dim=1, keepdim=True), rows, 0).sum(dim=0)
        self._sums = sums if self._sums is None else self._sums + sums
        self._waiting = []

    def totals(self) -> Totals:
        """The sum of each loss, and the number of batches that count; waits for the device."""
        self._sum_up()
        *values, count = [0.0] if self._sums is None else self._sums.tolist()
        if not count:
            return dict(self._before), self._count
        pairs = zip(self.names, values, strict=True)
        return {name: self._before.get(name, 0.0) + value for name, value in pairs}, self._count + int(count)


def means_of(totals: Sequence[Totals]) -> dict[str, float]:
    """The means over the batches of several processes; empty where no batch counts."""
    count = sum(batches for _, batches in totals)
    names = dict.fromkeys(name for sums, _ in totals for name in sums) if count else {}
    return {name: sum(sums.get(name, 0.0) for sums, _ in totals) / count for name in names}
