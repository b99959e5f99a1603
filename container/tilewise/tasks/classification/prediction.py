from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tilewise.arrays import Float32
from tilewise.inference.batching import Merge
from tilewise.tiling.spec import Tiling
from tilewise.views.view import View


@dataclass(frozen=True)
class ClassScores:
    """What a classifier says of an image.

    Attributes:
        width, height: pixels of the upright image.
        scores: (C,) in 0..1, by label: their sum is 1 unless an image has any number of classes.

    """

    width: int
    height: int
    scores: Float32


def merger(*, several: bool) -> Merge:
    """Pools the scores of an image's views: their mean, or where classes are independent the highest."""
    return partial(_pooled, pool=np.max if several else np.mean)


def _pooled(
    shown: Sequence[tuple[View, Float32]],
    width: int,
    height: int,
    tiling: Tiling,
    *,
    pool: Callable[..., Float32],
) -> ClassScores:
    scores = np.stack([result for _, result in shown])
    pooled: Float32 = scores[0] if len(scores) == 1 else pool(scores, axis=0)
    return ClassScores(width, height, pooled)
