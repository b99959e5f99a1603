from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Instances:
    """What a detector finds in one view or one image, best score first.

    Attributes:
        boxes: (N, 4) float32, ``xmin, ymin, xmax, ymax`` in pixels of the view or of the upright image.
        scores: (N,) float32 in 0..1.
        labels: (N,) int64, the 0-based index into the model's classes.

    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> Instances:
        return Instances(self.boxes[index], self.scores[index], self.labels[index])


def on_cpu(found: Sequence[Instances]) -> list[Instances]:
    """What was found in several views, from a GPU in one copy of each kind: it is waited for each time."""
    if not found:
        return []
    counts = list(map(len, found))
    kinds = (
        torch.cat([getattr(each, name) for each in found]).cpu().split(counts)
        for name in ("boxes", "scores", "labels")
    )
    return [Instances(*parts) for parts in zip(*kinds, strict=True)]
