"""From SageMaker's strings, in either dialect, to Hyperparameters or one message that lists every problem."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from typing import Any

from tilewise.errors import UserError
from tilewise.hyperparameters.builtin_classification import in_names_of_table, is_builtin_classification
from tilewise.hyperparameters.classification import CLASSIFICATION_TASKS, check_classification
from tilewise.hyperparameters.models import DEFAULT_MODELS, PARTS_OF_RECIPES, YOLOV5, YOLOV5_SIZES
from tilewise.hyperparameters.reader import Entry, Reader
from tilewise.hyperparameters.rules import check_model, check_together
from tilewise.hyperparameters.table import ROWS, Hyperparameters
from tilewise.hyperparameters.task import decide_task
from tilewise.hyperparameters.values import did_you_mean
from tilewise.hyperparameters.views import check_views, training_views
from tilewise.registry import family_of, find_model, model_names, task_names

_YOLO = ("yolox", "maskyolox")
"""The families that Azure's setting for YOLO is for."""


def parse_hyperparameters(raw: Mapping[str, object]) -> Hyperparameters:
    """Read the hyperparameters of a job as SageMaker passes them.

    A job that names no ``model_name`` but gives ``num_training_samples`` or ``base_network`` is one for the
    built-in Object Detection algorithm and gets its model and defaults; every other job gets Azure AutoML's.
    Values are texts, plain or quoted as JSON; an empty one means the default. Names that the platform adds
    are ignored.

    Raises:
        UserError: the job is for a task that there is not; else the message lists all problems in the order
            of ``raw``, by the names as written.

    """
    texts = {name: _as_text(value) for name, value in raw.items()}
    task = decide_task(texts)
    written = texts
    if task in CLASSIFICATION_TASKS and is_builtin_classification(texts):
        written = in_names_of_table(texts)
    reader = Reader(written | ({"task": task} if texts.get("task") else {}), task)
    check_together(reader)
    model = _resolve_model(reader)
    defaults = _defaults(reader, model) if model is not None else {}
    check_views(reader, defaults)
    if model is not None and task in CLASSIFICATION_TASKS:
        values = defaults | {name: entry.value for name, entry in reader.entries.items()}
        values["model_name"] = model
        check_classification(reader, values)
    elif model is not None:
        check_model(reader, model, defaults)
    problems = [problem for messages in reader.problems.values() for problem in messages]
    if problems or model is None:
        raise UserError("; ".join(problems))
    values = _complete(reader, model)
    return Hyperparameters.model_validate(
        values | {"given": tuple(name for name in values["given"] if name in raw)}
    )


def _as_text(value: object) -> str:
    """A value as bare text: the SDK quotes some as JSON, and a file written by hand may hold numbers."""
    if value is None:
        return ""
    if isinstance(value, dict | list):  # the toolkit has read it as JSON
        return json.dumps(value)
    text = str(value).strip()
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text)).strip()
    except json.JSONDecodeError:
        return text


def _resolve_model(reader: Reader) -> str | None:
    """The model that is meant, available or not; None where there is no such model."""
    entry = reader.entries.get("model_name")
    size = reader.entries.get("model_size")
    default = DEFAULT_MODELS.get(reader.task, ROWS["model_name"].default(reader.dialect))
    model: str = entry.value if entry else default
    available = model_names(reader.task)
    if model.lower() in (*available, YOLOV5):
        model = model.lower()
    if model == YOLOV5:
        model = YOLOV5_SIZES[size.value if size else "medium"]
    elif size:
        reader.refuse(size.name, f"model_size applies only to model_name=yolov5; leave out {size}")
    if entry and model not in available:
        known = available if "task" in reader.entries else tuple(chain(*map(model_names, task_names())))
        reader.refuse(entry.name, _why_not(entry, model, available, known))
    return model if model in available else None


def _why_not(entry: Entry, model: str, available: tuple[str, ...], known: tuple[str, ...]) -> str:
    """Why a model is not available; ``known`` are those that may be meant."""
    tasks = [task for task in task_names() if model.lower() in model_names(task)]
    if tasks:
        return f"{entry} is a model for task={tasks[0]}; available here: {', '.join(available)}"
    suggestion = did_you_mean(entry.text, dict.fromkeys((*known, YOLOV5)))
    return f"{entry}: there is no such model{suggestion}; available: {', '.join(available)}"


def _defaults(reader: Reader, model: str) -> dict[str, Any]:
    """Those of the job's dialect, and in Azure AutoML's those of the model's family before them."""
    family = family_of(model)
    applies = (None, family.scaling)
    task_defaults = family.task_defaults.get(reader.task, {})
    own = {**family.defaults, **task_defaults, **_recipe(reader, model)} if reader.dialect == "azure" else {}
    return {
        name: own.get(name, row.default(reader.dialect)) if row.scaling in applies else None
        for name, row in ROWS.items()
    }


def _recipe(reader: Reader, model: str) -> dict[str, Any]:
    """That of the model, where the job calls it by its own name, but for what the job chooses otherwise."""
    named = reader.entries.get("model_name")
    if named is None or named.value.lower() == YOLOV5:
        return {}
    recipe = dict(find_model(model).recipe)
    for names, part in PARTS_OF_RECIPES:
        if any(name in reader.entries for name in names):
            recipe = {name: value for name, value in recipe.items() if name not in part}
    if "tile_grid_size" in reader.none:
        recipe.pop("tile_grid_size", None)  # none of the job is no tiles, not the recipe's auto
    return recipe


def _complete(reader: Reader, model: str) -> dict[str, Any]:
    """All fields: what was given, the defaults of the job and the model, and what follows from them."""
    values = _defaults(reader, model)
    values |= {name: entry.value for name, entry in reader.entries.items()}
    values["model_name"], values["task"] = model, reader.task
    named = reader.entries.get("model_name")
    if named and named.value.lower() == YOLOV5:
        values["model_size"] = values["model_size"] or "medium"
    settings = values["advanced_settings"] or {}
    if not settings.get("apply_automl_train_augmentations", True):
        values["random_windows"] = False
    if settings.get("apply_mosaic_for_yolo") and family_of(model).name in _YOLO:
        values["mosaic"] = values["mosaic"] or 1.0  # as YOLOv5 has it: each view
    if values["lr_scheduler_step"]:
        values |= {"learning_rate_scheduler": "step", "step_lr_step_size": None}
    values["training_views"] = training_views(values)
    if values["validation_batch_size"] is None:
        values["validation_batch_size"] = values["training_batch_size"] or 1  # auto: the job sets both
    by_machine = reader.dialect == "builtin" and "training_batch_size" not in reader.names
    return values | {
        "dialect": reader.dialect,
        "batch_unit": "machine" if by_machine or "mini_batch_size" in reader.names else "gpu",
        "given": tuple(reader.names),
    }
