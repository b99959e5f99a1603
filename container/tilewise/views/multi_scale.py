from __future__ import annotations

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
