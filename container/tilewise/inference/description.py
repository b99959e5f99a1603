"""``model.json``: all that is known of a model but its weights, read without PyTorch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewise.errors import UserError
from tilewise.registry import DEFAULT_TASK, find_task

FORMAT = 1
DESCRIPTION = "model.json"
GRAPH_SUFFIX = ".onnx"


@dataclass(frozen=True)
class ModelDescription:
    """What ``model.json`` says.

    Attributes:
        spec: what the model is built from, a :class:`~tilewise.models.spec.ModelSpec` of its task.
        classes: their names, by label.
        folder: holds ``model.json``, and beside it what it names.
        weights: the name of their file.
        classifier: the model for the crops of what this one finds, and how they are cut; None for none.
        hyperparameters, metrics, environment, task: as in :class:`tilewise.inference.artifact.Artifact`.

    """

    spec: Any
    classes: tuple[str, ...]
    folder: Path
    weights: str
    hyperparameters: Mapping[str, Any]
    metrics: Mapping[str, Any]
    environment: Mapping[str, Any]
    task: str = DEFAULT_TASK
    classifier: Mapping[str, Any] | None = None

    @property
    def graph(self) -> str:
        """The name of the file of the graph that belongs to these weights; there may be none."""
        return graph_name(self.weights)

    @staticmethod
    def read(folder: Path) -> ModelDescription:
        """Read the description of the model in a folder; see :func:`model_in`.

        Raises:
            UserError: the folder holds none, or a damaged one; the message says which file and why.

        """
        folder = model_in(folder)
        path = folder / DESCRIPTION
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise UserError(
                    f"{path} has format {content['format']}, which this version of Tilewise does not know"
                )
            task = find_task(content.get("task", DEFAULT_TASK))()
            spec, classes = task.spec_from_json(content["detector"]), tuple(map(str, content["classes"]))
            if not isinstance(content["classes"], list) or len(set(classes)) < len(classes):
                raise UserError(f'{path}: "classes" must be a list of different names')
            number = getattr(spec, "num_classes", len(classes))  # a task's own models may have none
            if len(classes) != number:
                raise UserError(
                    f"{path} names {len(classes)} classes of a model that has {number}: name each"
                )
            return ModelDescription(
                spec=spec,
                classes=classes,
                folder=folder,
                weights=os.path.basename(content["weights"]),
                hyperparameters=content["hyperparameters"],
                metrics=content["metrics"],
                environment=content.get("environment", {}),
                task=task.name,
                classifier=content.get("classifier"),
            )
        except PermissionError as error:
            raise not_readable(error) from None
        except NotADirectoryError:
            raise UserError(
                f"{folder} is a file, where the folder of a model is expected: unpack an archive (mkdir "
                "model; tar xzf model.tar.gz -C model) and name the folder"
            ) from None
        except FileNotFoundError:
            packed = next(iter(sorted(folder.glob("*.tar.gz"))), None)
            cure = f"; unpack {packed.name} there: tar xzf {packed.name}" if packed else ""
            raise UserError(f"{folder} holds no model of Tilewise: {path.name} is missing{cure}") from None
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise UserError(f"the model in {folder} is damaged: {type(error).__name__}: {error}") from None


def model_in(folder: Path) -> Path:
    """Where in a folder ``model.json`` is: one below, where the archive was packed with a top folder."""
    below = [] if (folder / DESCRIPTION).is_file() else list(folder.glob(f"*/{DESCRIPTION}"))
    return below[0].parent if len(below) == 1 else folder


def graph_name(weights: str) -> str:
    """The name of the graph of a file of weights."""
    return str(Path(weights).with_suffix(GRAPH_SUFFIX))


def not_readable(error: PermissionError) -> UserError:
    """What to do about a file of a model that may not be read."""
    return UserError(
        f"{error.filename} may not be read by user {os.getuid()}: make it readable (chmod a+rX), or run "
        "as its owner"
    )
