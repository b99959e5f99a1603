"""The random crop that classifiers are trained with (Szegedy et al. 2015, section 6), as a view's window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilewise.augment.transform import Draft, Transform
from tilewise.views.view import View, Window

AREA, LOG_RATIO = (0.08, 1.0), math.log(4 / 3)
"""The share of the image's area, and how far width and height may differ; torchvision's values."""
TRIALS = 10


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """Shows a random part of an image as a square.

    Attributes:
        side: of the square, in pixels.

    """

    side: int

    def change_drafts(self, drafts: Sequence[Draft], rngs: Sequence[np.random.Generator]) -> Sequence[Draft]:
        """All of them, each with the window that is drawn."""
        return [
            replace(draft, view=View(drawn_window(draft.width, draft.height, rng), (self.side, self.side)))
            for draft, rng in zip(drafts, rngs, strict=True)
        ]


def drawn_window(width: int, height: int, rng: np.random.Generator) -> Window:
    """Draw a window inside an image; where none fits in ten trials, the middle in the nearest ratio."""
    for _ in range(TRIALS):
        area = width * height * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(-LOG_RATIO, LOG_RATIO))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
            return left, top, left + wide, top + high
    most = math.exp(LOG_RATIO)
    wide, high = min(width, max(1, round(height * most))), min(height, max(1, round(width * most)))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
