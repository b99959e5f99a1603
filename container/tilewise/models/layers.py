from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM = 0.03
"""Of running statistics, as YOLOX and SSDlite have it: those of some 33 batches, with PyTorch's 0.1 of ten.

Detectors learn from few views at a time, and views differ: how bright they are, how much of them lies outside
the image. Those of ten batches are not those of the data (benchmarks/README.md).
"""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that also trains on one value a channel: one image whose last map is one pixel.

    One value has no variance: PyTorch refuses it. Here the running statistics normalise it.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__(num_features, eps, MOMENTUM)

    def forward(self, input: Tensor) -> Tensor:
        """As PyTorch's, on (N, C, H, W)."""
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)
