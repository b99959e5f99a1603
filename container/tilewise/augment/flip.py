from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewise.augment.transform import Transform
from tilewise.views.sample import Sample


class RandomHorizontalFlip(Transform):
    """Mirrors a sample left to right with probability one half."""

    def change_samples(
        self, samples: Sequence[Sample], rngs: Sequence[np.random.Generator]
    ) -> Sequence[Sample]:
        """Those that are drawn, mirrored."""
        return [
            _flip(sample) if rng.random() < 0.5 else sample for sample, rng in zip(samples, rngs, strict=True)
        ]


def _flip(sample: Sample) -> Sample:
    return Sample(sample.pixels.flip(-1), sample.targets.flip(sample.pixels.shape[-1]))
