from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewise.arrays import Floats

SMALLEST_PIXELS = 4.0


def fit_anchor_sizes(
    published: Sequence[float], object_sizes: Floats, smallest: float = SMALLEST_PIXELS
) -> tuple[float, ...] | None:
    """Anchor sizes for objects that the published ones are too large for.

    An anchor matches an object at an IoU of 0.5 when their √areas differ by less than a factor of √2. Where
    the 5th percentile of the objects is smaller than the first published size by more than that, the sizes
    start at the percentile and grow by a factor of two from one feature map to the next (as the maps' strides
    do), or by more where the 99th percentile asks for it, but never beyond the published ones.

    Args:
        published: √area of the anchors, one a feature map, smallest first.
        object_sizes: (N,) √area of the objects, in the same unit, as the detector sees them.
        smallest: anchors are not made smaller.

    Returns:
        As many sizes as there are published ones, or None where those will do.

    """
    if not len(object_sizes):
        return None
    low, high = np.percentile(object_sizes, [5, 99])
    low = max(float(low), smallest)
    if low >= published[0] / np.sqrt(2):
        return None
    growth = max(2.0, float(high / low) ** (1 / (len(published) - 1)))
    return tuple(round(min(limit, low * growth**level), 4) for level, limit in enumerate(published))
