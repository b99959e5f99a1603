from __future__ import annotations

import os

import torch


def be_deterministic() -> None:
    """Let this process compute the same each time, where that is possible; to be called before CUDA is used.

    An operation that has no deterministic form is named in a warning, and used all the same.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
