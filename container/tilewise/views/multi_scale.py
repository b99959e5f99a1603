from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewise.arrays import Floats

STEP = 32
SPREAD = 0.5


def multi_scale_sides(side: int, smallest: int = STEP) -> list[int]:
    """The sides that multi-scale training draws from: multiples of 32 within ±50 % of ``side``.

    The largest comes first: trained on first, it shows at once whether the memory suffices.

    Args:
        side: the nominal side of the view in pixels.
        smallest: sides below it are left out: what the model can take.

    """
    low, high = max(smallest, (1 - SPREAD) * side), (1 + SPREAD) * side
    sides = [multiple for multiple in range(STEP, int(high) + 1, STEP) if multiple >= low]
    return sides[::-1] or [side]


def sides_of(side: int, factors: Sequence[float], *, smallest: int = STEP, step: int = STEP) -> list[int]:
    """The sides at these factors, in multiples of ``step``, none below ``smallest``; the largest first.

    Views whose sides are no multiples of 32 are padded, so that models that pad them anyway can have any.
    """
    least = -(-smallest // step) * step
    return sorted({max(least, step * int(factor * side / step + 0.5)) for factor in factors}, reverse=True)


def factors_for(object_sizes: Floats, smallest_object: float, count: int = 5) -> tuple[float, ...]:
    """Factors from 0.5 to 2, evenly spaced in ratio: at some small, at others large objects are resolved.

    Args:
        object_sizes: (N,) √area in pixels of views at their nominal size.
        smallest_object: in pixels of a view, that a model resolves well.
        count: of factors.

    """
    if not len(object_sizes):
        return tuple(np.linspace(1 - SPREAD, 1 + SPREAD, count).tolist())
    small, large = np.percentile(object_sizes, [25, 75])
    high = float(np.clip(smallest_object / small, 1.25, 2))
    low = float(np.clip(smallest_object / large, 0.5, 0.8))
    return tuple(round(float(factor), 3) for factor in np.geomspace(low, high, count))
