from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class LossMeans:
    """The means of the losses of many batches; they stay on their device until they are asked for.

    Batches whose losses are not finite are left out.

    Attributes:
        names: of the losses, known from the first batch on.

    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._sums: Tensor | None = None  # (losses + 1,): their sums, and the number of batches

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add those of a batch; none where it had no loss."""
        if not losses:
            return
        values = torch.stack(list(losses.values())).detach().double()
        row = torch.cat([values, torch.ones_like(values[:1])])
        row = torch.where(values.isfinite().all(), row, 0)
        if self._sums is None:
            self.names, self._sums = tuple(losses), row
        else:
            self._sums += row

    def read(self) -> dict[str, float]:
        """The means; empty where no batch counts. Waits for the device."""
        *sums, count = [0.0] if self._sums is None else self._sums.tolist()
        return {name: value / count for name, value in zip(self.names, sums, strict=True)} if count else {}
