"""Programs start sooner without torch._dynamo, which takes longer to import than PyTorch's other parts."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any


def skip_dynamo() -> None:
    """From now on torch._dynamo is imported where something is compiled, and not before.

    torchvision asks for it when it is imported, and each step of an optimizer does, only to mark what
    ``torch.compile`` leaves alone; for these stand-ins answer. Programs call this before they import
    torchvision.
    """
    for name, answers in _STAND_INS.items():
        if name not in sys.modules:
            module = _StandIn(name)
            vars(module).update(answers)
            sys.modules[name] = module


class _StandIn(ModuleType):
    """In place of a module, until something is asked of it that it has no answer to."""

    def __getattr__(self, name: str) -> Any:
        # What looks through all modules asks for these; the path, who imports a part of the package.
        if name.startswith("__") and (self.__name__, name) != ("torch._dynamo", "__path__"):
            raise AttributeError(name)
        _import_dynamo()
        return getattr(sys.modules[self.__name__], name)


def _import_dynamo() -> None:
    for name in _STAND_INS:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
    importlib.import_module("torch._dynamo")


def _is_compile_supported(device_type: str) -> Any:
    _import_dynamo()
    return sys.modules["torch._dynamo.utils"].is_compile_supported(device_type)


def _nothing() -> None:
    """Nothing is compiled yet."""


def _disable(function: Any, *_: Any, **__: Any) -> Any:
    """Leave it as it is: what it marks is no part of a model, and nothing else is compiled here."""
    return function


_STAND_INS: dict[str, dict[str, Any]] = {
    "torch._dynamo": {
        "disable": _disable,  # tensors of torchvision.transforms.v2; gradients set to zero
        "graph_break": _nothing,  # around an optimizer's step
        "trace_rules": SimpleNamespace(clear_lru_cache=_nothing),  # before processes are joined
    },
    # RoIAlign asks it before it compiles its deterministic form on a GPU.
    "torch._dynamo.utils": {"is_compile_supported": _is_compile_supported},
}
