from __future__ import annotations

import torch

from tilewise.errors import UserError


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


def require_supported_gpus() -> None:
    """Refuse GPUs that PyTorch has no kernels for, before it is asked for one.

    Raises:
        UserError: a GPU's compute capability is below the lowest that this build of PyTorch was made for.

    """
    built_for = [int(name.removeprefix("sm_")) for name in torch.cuda.get_arch_list() if name[3:].isdigit()]
    for index in range(torch.cuda.device_count() if built_for else 0):
        major, minor = torch.cuda.get_device_capability(index)
        if 10 * major + minor < min(built_for):
            raise UserError(
                f"GPU {torch.cuda.get_device_name(index)} has compute capability {major}.{minor}, but "
                f"PyTorch {torch.__version__} needs {min(built_for) / 10}: use an instance type with a newer "
                "one, such as ml.g4dn, ml.g5 or ml.p3 (not ml.p2), or one without a GPU"
            )


def best_device() -> torch.device:
    """Where a network runs fastest on this machine: the first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
