from __future__ import annotations

import importlib.util
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tilewise.errors import UserError
from tilewise.models.detector import VisionModel

BACKEND = "inductor"


def compile_convolutions(model: VisionModel) -> None:
    """Compile a model's backbone and the convolutions of its head, for training.

    In evaluation they stay as they are, so that validation computes what the endpoint will. The names of
    parameters do not change.

    Raises:
        UserError: what compiling needs is not installed.

    """
    _require_compiler(next(model.parameters()).device)
    network: Any = model.network
    for part in (network.backbone, network.head):
        _compile_in_training(part)


def _compile_in_training(module: nn.Module) -> None:
    plain = module.forward
    compiled = torch.compile(plain, dynamic=False, backend=BACKEND)

    def forward(*arguments: Any) -> Any:
        return (compiled if module.training else plain)(*arguments)

    module.forward = forward


def _require_compiler(device: torch.device) -> None:
    missing = [] if shutil.which("g++") or shutil.which("c++") else ["a C++ compiler"]
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():  # which a system's Python comes without
        missing.append("Python's headers (Python.h)")
    packages = {"setuptools": "setuptools"} | ({"triton": "Triton"} if device.type == "cuda" else {})
    missing += [name for package, name in packages.items() if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"compile=1 needs {' and '.join(missing)}, not installed here (the image leaves it out): "
            "leave compile out"
        )
