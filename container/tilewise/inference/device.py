from __future__ import annotations

import torch


def tune_device() -> None:
    """Settings of the calling thread and its process that training and serving share.

    Both take them, so that an image's figures are the same in validation and at the endpoint. Subnormal
    numbers, which freshly initialised nets make, are flushed to zero: a CPU is slow with them. The setting is
    the thread's own, and its OpenMP threads inherit it when they start: call it before the first computation.
    On GPUs from compute capability 8.0 on, float32 products of matrices and convolutions run in TF32.
    """
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high")  # of cuBLAS; a CPU takes it for a wish that it does not fulfil
    torch.backends.cudnn.allow_tf32 = True


def best_device() -> torch.device:
    """Where a network runs fastest on this machine: the first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
