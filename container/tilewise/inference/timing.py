from __future__ import annotations

import time
from collections.abc import Callable


def milliseconds(work: Callable[[], object], times: int = 3) -> float:
    """How long a piece of work takes, the best of a few times, after one that warms it up."""
    work()
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best * 1000
