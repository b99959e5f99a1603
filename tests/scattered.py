"""Detections scattered at random, for the merging of views."""

from __future__ import annotations

import numpy as np
from made_instances import make_instances
from tilewise.arrays import Bool, Int64
from tilewise.instances import Instances


def scattered_detections(
    seed: int, count: int, span: float, views: int = 4, labels: int = 2
) -> tuple[Instances, Int64, Bool]:
    """``count`` boxes over ``span`` x ``span`` pixels, the view of each, (N,), and its cut sides, (N, 4)."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, span, (count, 2))
    sides = np.exp(rng.normal(2.5, 1.2, (count, 2)))
    boxes = np.concatenate([corners, corners + sides], axis=1)
    found = make_instances(
        boxes,
        rng.integers(0, 40, count) / 40,  # with equal scores
        rng.integers(0, labels, count),
    )
    return (
        found,
        rng.integers(0, views, count),
        rng.random((count, 4)) < 0.1,
    )
