"""Counts that a loss is divided by, over all processes that train together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def counting_alone() -> Iterator[None]:
    """Inside, losses are divided by the counts of this process: for a step that the others may not take."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def mean_over_processes(counts: Tensor, at_least: float = 0.0) -> Tensor:
    """What each process would have if all had the same: the sum over the processes, divided by their number.

    Gradients are averaged over the processes. A sum of losses that is divided by this mean has, averaged, the
    gradient of the sum over all of them divided by the count of all of them: as if one process had had the
    whole batch. All processes must call it, in the same order; alone, and inside :func:`counting_alone`, it
    returns them as they are.

    Args:
        counts: any shape and number type.
        at_least: a smaller sum is taken for this.

    Returns:
        The same shape, float32.

    """
    sums = counts.detach().to(torch.float32, copy=True)
    if _alone.get() or not (dist.is_available() and dist.is_initialized()):
        return sums.clamp_(min=at_least)
    dist.all_reduce(sums)
    return sums.clamp_(min=at_least) / dist.get_world_size()
