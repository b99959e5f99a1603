from __future__ import annotations

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from tilewise.views.sample import Sample

BRIGHTNESS, CONTRAST, SATURATION = (0.875, 1.125), (0.5, 1.5), (0.5, 1.5)
HUE = 0.05


def augment_sample(sample: Sample, rng: np.random.Generator) -> Sample:
    """Mirror a sample left to right, and change its colours, each with probability one half.

    The ranges are SSD's (torchvision's RandomPhotometricDistort).
    """
    pixels, boxes = sample.pixels, sample.boxes
    if rng.random() < 0.5:
        width = pixels.shape[-1]
        pixels = pixels.flip(-1)
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    if rng.random() < 0.5:
        pixels = F.adjust_brightness(pixels, rng.uniform(*BRIGHTNESS))
    if rng.random() < 0.5:
        pixels = F.adjust_contrast(pixels, rng.uniform(*CONTRAST))
    if rng.random() < 0.5:
        pixels = F.adjust_saturation(pixels, rng.uniform(*SATURATION))
    if rng.random() < 0.5:
        pixels = F.adjust_hue(pixels, rng.uniform(-HUE, HUE))
    return Sample(pixels, boxes, sample.labels, sample.ignored)
