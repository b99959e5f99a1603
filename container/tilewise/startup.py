"""Programs start sooner without torch._dynamo, which takes longer to import than PyTorch's other parts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_ASKS, _ASKED = "torchvision.ops.roi_align", "torch._dynamo.utils"


def skip_dynamo() -> None:
    """From now on, importing torchvision does not import torch._dynamo.

    torchvision's RoIAlign asks it one thing, before it compiles its deterministic form on a GPU. Then, and
    for ``torch.compile``, it is imported as ever. Programs call this before they import torchvision.
    """
    if not any(isinstance(finder, _WithoutDynamo) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithoutDynamo())


class _WithoutDynamo(MetaPathFinder):
    """While the module that asks is imported, a stand-in answers for torch._dynamo."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == _ASKS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            stand_in = None if _ASKED in sys.modules else ModuleType(_ASKED)
            if stand_in:
                stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
                sys.modules[_ASKED] = stand_in
            try:
                execute(module)
            finally:
                if stand_in:
                    del sys.modules[_ASKED]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _is_compile_supported(device_type: str) -> Any:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)
