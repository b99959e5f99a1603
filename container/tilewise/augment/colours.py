"""SSD's change of colours, as one affine map of each pixel's red, green and blue.

Brightness, contrast and saturation are affine as they stand. Hue is turned in YIQ, as MXNet's HueJitterAug
does it, not in HSV: a turn about the grey axis is linear. So all four cost one product of matrices.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from tilewise.augment.transform import Transform
from tilewise.views.sample import Sample

cv2.setNumThreads(0)  # loader processes are one per core, and may be forked from one that has used OpenCV

BRIGHTNESS, CONTRAST, SATURATION = (0.875, 1.125), (0.5, 1.5), (0.5, 1.5)
HUE = (-0.05, 0.05)
"""The ranges are those of torchvision's RandomPhotometricDistort; hue in turns of the circle."""

GREY = np.array([0.299, 0.587, 0.114])
_GREY_OF_ALL = np.outer(np.ones(3), GREY)  # of a colour: its grey, three times
_SAME = np.eye(3)
_YIQ = np.array([GREY, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_YIQ)


class RandomPhotometricDistort(Transform):
    """Changes the colours of samples; see :func:`change_colours`."""

    def change_sample(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Each as it is drawn."""
        return Sample(change_colours(sample.pixels, rng), sample.targets)


def change_colours(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue, each with probability one half.

    Args:
        pixels: (3, H, W) uint8, red, green and blue.
        rng: draws.

    Returns:
        New pixels; or those given, where nothing was drawn.

    """
    brightness, contrast, saturation = (
        _drawn(rng, limits, otherwise=1.0) for limits in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    hue = _drawn(rng, HUE, otherwise=0.0)
    if (brightness, contrast, saturation, hue) == (1, 1, 1, 0):
        return pixels
    colours = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    change = np.empty((3, 4))
    change[:, :3] = saturation * _SAME + (1 - saturation) * _GREY_OF_ALL
    if hue:
        change[:, :3] = _turn(hue) @ change[:, :3]
    change[:, :3] *= brightness * contrast
    change[:, 3] = 0
    if contrast != 1:
        mean_grey = brightness * float(GREY @ cv2.mean(colours)[:3])
        change[:, 3] = (1 - contrast) * mean_grey
    changed = cv2.transform(colours, change)
    # planes again, as batches hold them
    planes = np.empty(tuple(pixels.shape), np.uint8)
    cv2.split(changed, list(planes))
    return torch.from_numpy(planes)


def _drawn(rng: np.random.Generator, limits: tuple[float, float], otherwise: float) -> float:
    return float(rng.uniform(*limits)) if rng.random() < 0.5 else otherwise


def _turn(hue: float) -> np.ndarray:
    """(3, 3) of colours: a turn about the grey axis by a share of the circle, from red towards yellow."""
    cosine, sine = np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)
    in_yiq = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
    return np.asarray(_FROM_YIQ @ in_yiq @ _YIQ)
