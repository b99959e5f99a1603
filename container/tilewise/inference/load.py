"""From the folder of a model to the backend that runs it."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from tilewise.errors import UserError
from tilewise.inference.backend import Backend
from tilewise.inference.description import ModelDescription
from tilewise.machine import visible_gpus

if TYPE_CHECKING:  # an endpoint may do without PyTorch
    from tilewise.inference.torch_backend import TorchBackend

log = logging.getLogger(__name__)

BackendName = Literal["auto", "onnx", "pytorch", "eager"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


def load_backend(
    folder: Path, description: ModelDescription, name: BackendName = "auto", *, batch_size: int | None = None
) -> Backend:
    """Load the model in a folder into what runs it; the log says which that is, and why.

    - ``onnx``: the graph beside the weights, with ONNX Runtime on the CPU. PyTorch is not loaded.
    - ``pytorch``: on a GPU as it is; on the CPU traced and frozen, where that is faster and gives the same.
    - ``eager``: PyTorch as in training.
    - ``auto``: ``pytorch`` where there is a GPU, else ``onnx`` where there is a graph, else ``pytorch``.
      Where PyTorch is not installed, ``onnx``.

    Args:
        folder: of the model.
        description: of the model.
        name: see above.
        batch_size: views that go through the network at once; None for what suits the device.

    Raises:
        UserError: the model cannot be used, or not so.

    """
    missing = _why_no_graph(folder, description)
    if name == "onnx" and missing:
        raise UserError(f"the backend onnx cannot be used: {missing}")
    with_torch = find_spec("torch") is not None
    if name == "onnx" or (name == "auto" and not missing and not (with_torch and visible_gpus())):
        from tilewise.inference.onnx_backend import OnnxBackend

        log.info("the model runs in ONNX Runtime: %s holds its graph", description.graph)
        return OnnxBackend(folder / description.graph, description.spec.limits())
    if not with_torch and name != "auto":
        raise UserError(f"the backend {name} needs PyTorch, which is not installed here: take onnx, or auto")
    if not with_torch:
        raise UserError(
            f"PyTorch is not installed here, and {missing}: where it is installed, tilewise export MODEL "
            "--even-if-slower makes one for any model"
        )
    backend, how = _load_torch(folder, description, batch_size, freeze=name != "eager")
    log.info("the model runs in %s%s", how, f": {missing}" if missing and name == "auto" else "")
    return backend


def _why_no_graph(folder: Path, description: ModelDescription) -> str:
    """Why a model's graph cannot be run; empty where it can."""
    if not (folder / description.graph).is_file():
        return (
            f"there is no graph {description.graph} (tilewise export {folder} makes it, where it is faster)"
        )
    return "" if find_spec("onnxruntime") else "the package onnxruntime is not installed"


def _load_torch(
    folder: Path, description: ModelDescription, batch_size: int | None, *, freeze: bool
) -> tuple[TorchBackend, str]:
    """The model in PyTorch, and in which words that is said."""
    from tilewise.inference.artifact import Artifact
    from tilewise.inference.device import require_supported_gpus, tune_device
    from tilewise.inference.torch_backend import TorchBackend

    require_supported_gpus()
    tune_device()
    backend = TorchBackend.on_best_device(Artifact.load(folder).model, batch_size)
    model = backend.model
    if backend.on_gpu or not freeze:
        return backend, f"eager PyTorch on the {'GPU' if backend.on_gpu else 'CPU'}"
    from tilewise.inference.export import GraphModel, frozen_if_faster

    if not isinstance(model, GraphModel):
        return backend, "eager PyTorch on the CPU"
    backend.graph, how = frozen_if_faster(model, description.spec.scaling)
    return backend, how
