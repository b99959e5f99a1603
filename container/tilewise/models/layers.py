from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def pieces(values: Tensor, counts: Sequence[int], dim: int = 0) -> list[Tensor]:
    """As ``torch.split``, which would make constants of traced counts."""
    found, first = [], 0
    for count in counts:
        found.append(values.narrow(dim, first, count))
        first = first + count
    return found


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that also trains on one value a channel: one image whose last map is one pixel.

    One value has no variance: PyTorch refuses it. Here the running statistics normalise it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """As PyTorch's, on (N, C, H, W)."""
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)
