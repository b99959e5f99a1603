"""Train and serve detectors of small objects in large images, on the SageMaker contract.

What ``__all__`` names is public: docs/python.md shows how it is used. It is imported when it is first asked
for, so that ``import tilewise`` does not load PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewise.data.read import Channel, read_channel
    from tilewise.data.records import Record, Records
    from tilewise.errors import UserError
    from tilewise.evaluation.evaluate import evaluate
    from tilewise.inference.detections import Prediction
    from tilewise.inference.predictor import Predictor
    from tilewise.inference.two_stages import load_predictor
    from tilewise.instances import Instance, Instances
    from tilewise.tiling.spec import TileOptions

__version__ = "0.1.0"

__all__ = [
    "Channel",
    "Instance",
    "Instances",
    "Prediction",
    "Predictor",
    "Record",
    "Records",
    "TileOptions",
    "UserError",
    "__version__",
    "evaluate",
    "load_predictor",
    "read_channel",
]

_MODULES = {
    "Channel": "data.read",
    "Instance": "instances",
    "Instances": "instances",
    "Prediction": "inference.detections",
    "Predictor": "inference.predictor",
    "Record": "data.records",
    "Records": "data.records",
    "TileOptions": "tiling.spec",
    "UserError": "errors",
    "evaluate": "evaluation.evaluate",
    "load_predictor": "inference.two_stages",
    "read_channel": "data.read",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
