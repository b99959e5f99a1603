from __future__ import annotations

import ctypes
import os

import torch

from tilewise.machine import available_cores

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def tune_cpu(processes: int = 1) -> None:
    """Settings of this process that training on a CPU gains from.

    glibc keeps freed memory: by default each large tensor is mapped anew at every step, and its pages are
    zeroed and faulted in again. And there are as many threads as the container may use cores: PyTorch starts
    as many as the machine has, of which a quota (``docker run --cpus``) stops most at any time.
    ``OMP_NUM_THREADS`` goes before.

    Args:
        processes: of this machine that train, and share its cores.

    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, available_cores() // processes))
