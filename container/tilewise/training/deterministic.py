from __future__ import annotations

import os
import shutil

import torch

from tilewise.errors import UserError


def be_deterministic(model_name: str) -> None:
    """Let this process compute the same each time, where that is possible; to be called before CUDA is used.

    An operation that has no deterministic form is named in a warning, and used all the same.

    Raises:
        UserError: the model's deterministic form has to be compiled on a GPU, and there is no compiler.

    """
    if model_name.startswith("fasterrcnn") and torch.cuda.is_available() and not _has_compiler():
        raise UserError(
            f"deterministic=1: torchvision compiles {model_name}'s deterministic RoIAlign with Triton, which "
            "needs gcc or clang, and there is none here: leave it out, take another model, or add a "
            "compiler to the image"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)


def _has_compiler() -> bool:
    return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
