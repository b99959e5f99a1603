"""How often an epoch shows each image, so that rare classes are seen more often.

Source: Gupta, Dollár and Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", 2019,
section 4.2, "repeat factor sampling".
"""

from __future__ import annotations

import numpy as np

from tilewise.arrays import Float64, Int64
from tilewise.data.records import Records

LVIS_THRESHOLD = 0.001


def repeat_factors(records: Records, threshold: float | None = None) -> Float64:
    """(R,) how often an epoch is to show each image: 1 or more, as the rarest class in it needs it.

    A class that is in a share f of the images has the factor √(threshold / f), at least 1.

    Args:
        records: the training images; objects that are ignored do not count.
        threshold: classes in a smaller share of the images are rare; None for the median share of the classes
            that there are, but at least LVIS' 0.001.

    """
    factors = np.ones(len(records))
    counted = ~records.targets.ignored
    image = np.repeat(np.arange(len(records)), records.object_counts)[counted]
    pairs = np.unique(np.stack([image, records.targets.labels[counted]]), axis=1)
    if not pairs.size:
        return factors
    share = np.bincount(pairs[1]) / len(records)
    if threshold is None:
        threshold = max(LVIS_THRESHOLD, float(np.median(share[share > 0])))
    of_class = np.sqrt(threshold / share[pairs[1]])
    np.maximum.at(factors, pairs[0], of_class)
    return factors


def drawn_counts(factors: Float64, rng: np.random.Generator) -> Int64:
    """(R,) how often one epoch shows each image: a factor's fraction is the chance of once more."""
    whole = np.floor(factors)
    return (whole + (rng.random(len(factors)) < factors - whole)).astype(np.int64)
