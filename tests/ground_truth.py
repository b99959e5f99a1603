"""Targets of a view for tests of losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tilewise.targets import Targets
from torch import Tensor


def make_targets(
    boxes: Sequence[Sequence[float]], labels: Sequence[int], ignored: Sequence[Sequence[float]]
) -> Targets[Tensor]:
    """Objects with their boxes and labels, and boxes to be ignored."""
    return Targets(
        boxes=torch.tensor([*boxes, *ignored], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([*labels, *[0] * len(ignored)], dtype=torch.int64),
        ignored=torch.tensor([False] * len(boxes) + [True] * len(ignored), dtype=torch.bool),
    )
