from __future__ import annotations

import numpy as np
import torch

from tilewise.augment.colours import change_colours
from tilewise.views.sample import Sample


def augment_sample(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirror a sample left to right with probability one half, and change its colours."""
    pixels, boxes = sample.pixels, sample.boxes
    if rng.random() < 0.5:
        width = pixels.shape[-1]
        pixels = pixels.flip(-1)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    return Sample(change_colours(pixels, rng), boxes, sample.labels, sample.ignored)
