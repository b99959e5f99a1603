"""Objects cut out of their images: in training classifiers and in showing them what a detector has found."""

from __future__ import annotations

import numpy as np

from tilewise.arrays import Array, Float32
from tilewise.data.decoding.decode import DecodedImage
from tilewise.views.view import View

MARGIN = 0.1
"""By this share of its sides an object's box is enlarged on each side before it is cut out."""


def crop_around(image: DecodedImage, box: Float32, margin: float = MARGIN) -> Array:
    """A box's pixels and some around it, (h, w, 3) uint8, at least one and none beyond the image."""
    corners, size = box.reshape(2, 2), np.array([image.width, image.height])
    around = margin * (corners[1] - corners[0])
    first = np.clip(np.floor(corners[0] - around), 0, size - 1).astype(int)
    end = np.clip(np.ceil(corners[1] + around), first + 1, size).astype(int)
    window = (int(first[0]), int(first[1]), int(end[0]), int(end[1]))
    return image.show(View(window, (window[2] - window[0], window[3] - window[1])))
