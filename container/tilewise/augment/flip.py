from __future__ import annotations

import numpy as np

from tilewise.augment.transform import Transform
from tilewise.views.sample import Sample


class RandomHorizontalFlip(Transform):
    """Mirrors a sample left to right with probability one half."""

    def change_sample(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Mirrored, if it is drawn."""
        if rng.random() >= 0.5:
            return sample
        return Sample(sample.pixels.flip(-1), sample.targets.flip(sample.pixels.shape[-1]))
