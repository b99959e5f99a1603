"""Detections scattered at random, for the merging of views."""

from __future__ import annotations

import numpy as np
import torch
from tilewise.instances import Instances
from torch import Tensor


def scattered_detections(
    seed: int, count: int, span: float, views: int = 4, labels: int = 2
) -> tuple[Instances, Tensor, Tensor]:
    """``count`` boxes over ``span`` x ``span`` pixels, the view of each, (N,), and its cut sides, (N, 4)."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, span, (count, 2))
    sides = np.exp(rng.normal(2.5, 1.2, (count, 2)))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    found = Instances(
        torch.from_numpy(boxes).float(),
        torch.from_numpy(rng.integers(0, 40, count) / 40).float(),  # with equal scores
        torch.from_numpy(rng.integers(0, labels, count)),
    )
    return (
        found,
        torch.from_numpy(rng.integers(0, views, count)),
        torch.from_numpy(rng.random((count, 4)) < 0.1),
    )
