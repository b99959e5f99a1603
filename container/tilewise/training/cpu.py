from __future__ import annotations

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def tune_cpu() -> None:
    """Settings of this process that training on a CPU gains from.

    Subnormal numbers, which freshly initialised nets make, are flushed to zero: they are slow. And glibc
    keeps freed memory: by default each large tensor is mapped anew at every step, and its pages are zeroed
    and faulted in again.
    """
    torch.set_flush_denormal(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
