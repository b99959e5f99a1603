from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Detections:
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

    def __getitem__(self, index: Tensor | slice) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on another device."""
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))
