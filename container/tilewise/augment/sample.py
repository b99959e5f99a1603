from __future__ import annotations

import numpy as np

from tilewise.augment.colours import change_colours
from tilewise.views.sample import Sample


def augment_sample(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirror a sample left to right with probability one half, and change its colours."""
    pixels, targets = sample.pixels, sample.targets
    if rng.random() < 0.5:
        pixels, targets = pixels.flip(-1), targets.flip(pixels.shape[-1])
    return Sample(change_colours(pixels, rng), targets)
