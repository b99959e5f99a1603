"""What a training job leaves and an endpoint starts from: ``model.json`` and one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import tilewise
from tilewise.errors import UserError
from tilewise.inference.description import (
    DESCRIPTION,
    FORMAT,
    GRAPH_SUFFIX,
    ModelDescription,
    graph_name,
    not_readable,
)
from tilewise.registry import DEFAULT_TASK, find_task
from tilewise.views.rendering import AS_STORED, Rendering

_WRITING = ".writing"


@dataclass(frozen=True)
class Artifact:
    """A trained model with what is needed to use it.

    Attributes:
        model: of its task, a :class:`~tilewise.models.detector.VisionModel` in evaluation mode; on the CPU
            when it was loaded.
        spec: what it was built from, a :class:`~tilewise.models.spec.ModelSpec` of its task.
        classes: their names, by label.
        hyperparameters: those of the job, for the record.
        metrics: those of the validation that chose these weights, for the record.
        environment: what the job ran on, for the record; empty in models of older versions.
        task: what it was trained for.

    """

    model: Any
    spec: Any
    classes: tuple[str, ...]
    hyperparameters: Mapping[str, Any]
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)
    task: str = DEFAULT_TASK

    def save(self, folder: Path, name: str) -> None:
        """Write the artifact; at every moment the folder holds the old model or the new one, whole.

        Args:
            folder: where to; another artifact there is replaced.
            name: of the weights file, without its suffix; differs from the file that it replaces.

        """
        weights = f"{name}.safetensors"
        tensors = {
            key: tensor.detach().cpu().contiguous() for key, tensor in self.model.network.state_dict().items()
        }
        (folder / graph_name(weights)).unlink(missing_ok=True)  # of weights of the same name
        write_file(folder / weights, lambda path: save_file(tensors, path))
        content = {
            "format": FORMAT,
            "task": self.task,
            "weights": weights,
            "classes": list(self.classes),
            "detector": self.spec.to_json(),
            "metrics": dict(self.metrics),
            "hyperparameters": dict(self.hyperparameters),
            "environment": dict(self.environment),
            "versions": {
                "tilewise": tilewise.__version__,
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
        }
        text = json.dumps(content, indent=2) + "\n"
        write_file(folder / DESCRIPTION, lambda path: path.write_text(text, encoding="utf-8"))
        remove_others(folder, weights)

    @staticmethod
    def load(folder: Path) -> Artifact:
        """Read an artifact.

        Raises:
            UserError: the folder holds none, or a damaged one; the message says which file and why.

        """
        description = ModelDescription.read(folder)
        weights = folder / description.weights
        if not weights.exists():
            raise UserError(f"the model in {folder} is damaged: {weights.name} is missing")
        try:
            with weights.open("rb"):
                pass  # safetensors says of a file that may not be read that it does not exist
            model = find_task(description.task)().build(description.spec)
            model.network.load_state_dict(load_file(weights))
        except PermissionError as error:
            raise not_readable(error) from None
        except (ValueError, KeyError, TypeError, OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"the model in {folder} is damaged: {type(error).__name__}: {error}") from None
        return Artifact(
            model.eval(),
            description.spec,
            description.classes,
            hyperparameters=description.hyperparameters,
            metrics=description.metrics,
            environment=description.environment,
            task=description.task,
        )


def add_to_description(folder: Path, content: Mapping[str, Any]) -> None:
    """Add to what ``model.json`` says of the model in a folder."""
    described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    text = json.dumps({**described, **content}, indent=2) + "\n"
    write_file(folder / DESCRIPTION, lambda path: path.write_text(text, encoding="utf-8"))


def read_classes(folder: Path) -> tuple[str, ...]:
    """The class names of what the model in a folder answers, by label.

    Raises:
        UserError: it holds none.

    """
    description = ModelDescription.read(folder)
    if description.classifier is not None:
        return read_classes(folder / str(description.classifier.get("model", "")))
    return description.classes


def read_rendering(folder: Path) -> Rendering:
    """Which of an image's stored values the model in a folder sees."""
    content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["detector"].get("rendering")
    return Rendering.from_json(content) if content else AS_STORED


def remove_others(folder: Path, weights: str) -> None:
    """Remove other weights and their graphs from an artifact's folder, and what was being written to it."""
    kept = (weights, graph_name(weights))
    for path in folder.iterdir():
        of_a_model = path.suffix in (".safetensors", GRAPH_SUFFIX)
        if path.name.endswith(_WRITING) or (of_a_model and path.name not in kept):
            path.unlink()


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place, then move it there."""
    temporary = path.with_name(f".{path.name}{_WRITING}")
    try:
        write(temporary)
        temporary.chmod(0o644)  # safetensors leaves files that only their owner can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
