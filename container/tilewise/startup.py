"""Programs start sooner without torch._dynamo, which takes longer to import than PyTorch's other parts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def skip_dynamo() -> None:
    """From now on, importing torchvision does not import torch._dynamo.

    Two modules of torchvision use it for ``torch.compile`` alone. It is imported as ever where something is
    compiled. Programs call this before they import torchvision.
    """
    if not any(isinstance(finder, _WithoutDynamo) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithoutDynamo())


def _is_compile_supported(device_type: str) -> Any:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)


def _disable(function: Any, *_: Any, **__: Any) -> Any:
    """Leave it as it is: what it marks wraps torchvision's own tensors, which nothing compiles here."""
    return function


_STAND_INS: dict[str, tuple[str, dict[str, Any]]] = {
    # RoIAlign asks it before it compiles its deterministic form on a GPU.
    "torchvision.ops.roi_align": ("torch._dynamo.utils", {"is_compile_supported": _is_compile_supported}),
    # torchvision.transforms.v2 imports these.
    "torchvision.tv_tensors": ("torch._dynamo", {"disable": _disable}),
}


class _WithoutDynamo(MetaPathFinder):
    """While a module that asks for torch._dynamo is imported, a stand-in answers."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _STAND_INS:
            return None
        asked, answers = _STAND_INS[name]
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            stand_in = None if "torch._dynamo" in sys.modules else ModuleType(asked)
            if stand_in:
                vars(stand_in).update(answers)
                sys.modules[asked] = stand_in
            try:
                execute(module)
            finally:
                if stand_in:
                    del sys.modules[asked]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
