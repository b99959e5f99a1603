"""What cameras and files do to pixels, through torchvision.transforms.v2: blur, noise and JPEG."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from tilewise.augment.transform import Transform
from tilewise.views.sample import Sample

SIGMAS = (0.3, 1.2)
"""Of the blur, in pixels of the view."""
KERNEL = 5
LARGEST_NOISE = 0.04
"""Standard deviation of the noise, as a share of white, at most."""
QUALITIES = (30, 90)


@dataclass(frozen=True)
class RandomQuality(Transform):
    """Blurs, adds noise, and compresses, each of a sample's views with the same probability.

    Attributes:
        probability: of each of the three.

    """

    probability: float

    def change_sample(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Each as it is drawn."""
        return replace(sample, pixels=self._change(sample.pixels, rng))

    def _change(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        blurs, is_noisy, compresses = (rng.random(3) < self.probability).tolist()
        if blurs and min(pixels.shape[1:]) > KERNEL // 2:
            pixels = F.gaussian_blur(pixels, [KERNEL, KERNEL], [float(rng.uniform(*SIGMAS))])
        if is_noisy:
            sigma, seed = float(rng.uniform(0, LARGEST_NOISE)), int(rng.integers(2**62))
            with torch.random.fork_rng(devices=[]):  # it draws from the one generator that there is
                torch.manual_seed(seed)
                noisy = F.gaussian_noise(pixels.float() / 255, sigma=sigma)
            pixels = (noisy * 255).round().to(torch.uint8)
        if compresses:
            pixels = F.jpeg(pixels.contiguous(), int(rng.integers(QUALITIES[0], QUALITIES[1] + 1)))
        return pixels
