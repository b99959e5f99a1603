from __future__ import annotations

import os

import torch

from tilewise.machine import available_cores, keep_freed_memory

LARGEST_KEPT = 1 << 30
"""Bytes of a tensor whose memory is used again when it is freed."""


def tune_cpu(processes: int = 1) -> None:
    """Settings of this process that training on a CPU gains from.

    Freed memory is kept. And there are as many threads as the container may use cores: PyTorch starts
    as many as the machine has, of which a quota (``docker run --cpus``) stops most at any time.
    ``OMP_NUM_THREADS`` goes before, for all libraries: set alone, it leaves MKL and PyTorch at theirs.

    Args:
        processes: of this machine that train, and share its cores.

    """
    keep_freed_memory(LARGEST_KEPT)
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    own = max(1, available_cores() // processes)
    torch.set_num_threads(int(chosen) if chosen.isdecimal() and int(chosen) else own)
