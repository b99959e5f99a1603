"""From SageMaker's strings, in either dialect, to Hyperparameters or one message that lists every problem."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

from tilewise.errors import UserError
from tilewise.hyperparameters.classification import (
    CLASSIFICATION_TASKS,
    PRIMARY_OF_LABELS,
    check_classification,
    in_names_of_table,
    is_builtin,
)
from tilewise.hyperparameters.models import DEFAULT_MODELS, YOLOV5, YOLOV5_SIZES
from tilewise.hyperparameters.table import AZURE_OTHER_NAMES, ROWS, Dialect, Hyperparameters
from tilewise.hyperparameters.task import DETECTION, decide_task
from tilewise.hyperparameters.values import Values, did_you_mean, shown
from tilewise.hyperparameters.views import check_views, training_views
from tilewise.registry import families, family_of, model_names, task_names

_ONLY_WITH = {
    "other_classes": "classes",
    "class_balance_threshold": "class_balance",
    "copy_paste_repeats": "copy_paste",
    "copy_paste_times": "copy_paste",
    "copy_paste_max_size": "copy_paste",
    "copy_paste_source": "copy_paste",
    "copy_paste_balance": "copy_paste",
}
"""Hyperparameters that say something of another one, which must be given, too."""

_SWITCHES = {"apply_automl_train_augmentations": "random_windows", "apply_mosaic_for_yolo": "mosaic"}
"""Azure's advanced settings that are ours, by another name."""

_YOLO = ("yolox", "maskyolox")
"""The families that Azure's setting for YOLO is for."""

_PLATFORM_PREFIXES = ("_", "sagemaker_")
_BUILTIN_MARKS = ("num_training_samples", "base_network")
_NONE_IN_REST = ("optimizer", "learning_rate_scheduler")
"""Enumerations of Azure's REST interface where ``None`` stands for the default."""
_SCALED_BY = {
    "square": "image_size, the side of its square input",
    "sides": "min_size and max_size, its shorter and longer side",
}


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
    if task in CLASSIFICATION_TASKS and is_builtin(texts):
        written = in_names_of_table(texts)
    reader = _Reader(written | ({"task": task} if texts.get("task") else {}), task)
    _check_required(reader)
    _check_schedule(reader)
    _check_classes(reader)
    _check_augmentations(reader)
    _check_metric(reader)
    _check_task(reader)
    check_views(reader.entries, reader.refuse)
    model = _resolve_model(reader)
    if model is not None and task in CLASSIFICATION_TASKS:
        values = _defaults(reader, model) | {name: entry.value for name, entry in reader.entries.items()}
        check_classification(
            task,
            reader.entries,
            {name: row.group for name, row in ROWS.items()},
            values=values | {"model_name": model},
            refuse=reader.refuse,
        )
    elif model is not None:
        _check_scaling(reader, model)
    problems = [problem for messages in reader.problems.values() for problem in messages]
    if problems or model is None:
        raise UserError("; ".join(problems))
    values = _complete(reader, model)
    return Hyperparameters.model_validate(
        values | {"given": tuple(name for name in values["given"] if name in raw)}
    )


class Spelling(NamedTuple):
    """A hyperparameter under one of its names.

    Attributes:
        canonical: its name in the table.
        values: what it takes.

    """

    canonical: str
    values: Values

    @property
    def is_whole(self) -> bool:
        """Whether it takes whole numbers only."""
        return self.values.allowed.startswith("a whole number")


class _Entry(NamedTuple):
    """A hyperparameter as the user wrote it, and its value."""

    name: str
    text: str
    value: Any

    def __str__(self) -> str:
        return f"{self.name}={shown(self.text)}"


class _Reader:
    """What the user gave: the names as written, the entries by canonical name, the problems by name."""

    def __init__(self, raw: Mapping[str, str], task: str) -> None:
        self.task = task
        self.names: list[str] = []
        self.entries: dict[str, _Entry] = {}
        self.problems: dict[str, list[str]] = {name: [] for name in raw}
        for name, value in raw.items():
            if not name.startswith(_PLATFORM_PREFIXES):
                self._take(name, value)

    @property
    def dialect(self) -> Dialect:
        """The built-in Object Detection algorithm has no other task than that."""
        builtin = "model_name" not in self.names and any(mark in self.names for mark in _BUILTIN_MARKS)
        return "builtin" if builtin and self.task == DETECTION else "azure"

    def refuse(self, name: str, problem: str) -> None:
        self.problems.setdefault(name, []).append(problem)

    def refuse_both(self, first: _Entry, second: _Entry) -> None:
        self.refuse(second.name, f"{first} and {second} disagree: give one of them")

    def _take(self, name: str, text: str) -> None:
        if name not in _SPELLINGS:
            suggestion = did_you_mean(name, _SPELLINGS) or "; leave it out"
            self.refuse(name, f"{name}={shown(text)}: unknown hyperparameter{suggestion}")
            return
        canonical, values = _SPELLINGS[name]
        try:
            value = None if not text or _is_unset(canonical, text) else values.read(text)
        except ValueError as error:
            self.names.append(name)
            self.refuse(name, f"{name}={shown(text)}: {error}")
            return
        if value is not None and value != ():
            self.names.append(name)
            self._keep(canonical, _Entry(name, text, value))

    def _keep(self, canonical: str, entry: _Entry) -> None:
        first = self.entries.setdefault(canonical, entry)
        if first.value != entry.value:
            self.refuse_both(first, entry)


def _spellings() -> dict[str, tuple[str, Values]]:
    """The names that a user may write: the canonical name each stands for, and the values it takes."""
    types = get_type_hints(Hyperparameters, include_extras=True)
    spellings = {name: (name, Values(types[name])) for name in ROWS}
    for name, row in ROWS.items():
        if row.alias and row.alias != name:
            spellings[row.alias] = (name, Values(row.alias_type) if row.alias_type else spellings[name][1])
    return spellings | {short: spellings[name] for short, name in AZURE_OTHER_NAMES.items()}


_SPELLINGS = _spellings()


def find_hyperparameter(name: str) -> Spelling:
    """What a user means by a name, for who has a value of one hyperparameter to check.

    Raises:
        UserError: there is none of that name; the message has the nearest ones.

    """
    if name not in _SPELLINGS:
        raise UserError(f"{name}: unknown hyperparameter{did_you_mean(name, _SPELLINGS)}")
    return Spelling(*_SPELLINGS[name])


def _is_unset(name: str, text: str) -> bool:
    """Whether ``none`` stands for the default: where that is no value."""
    row = ROWS[name]
    unset = {row.azure, row.builtin} & {None, ()} or name in _NONE_IN_REST
    return text.lower() in ("none", "null") and bool(unset)


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


def _check_required(reader: _Reader) -> None:
    if reader.dialect == "azure":
        return
    mark = next(name for name in reader.names if name in _BUILTIN_MARKS)
    for name, row in ROWS.items():
        if row.required and name not in reader.names:
            job = f"a job with {mark} and no model_name (one for the built-in algorithm)"
            reader.refuse(name, f"{name} is required in {job}")


def _check_schedule(reader: _Reader) -> None:
    steps = reader.entries.get("lr_scheduler_step")
    scheduler = reader.entries.get("learning_rate_scheduler")
    step_size = reader.entries.get("step_lr_step_size")
    if steps and scheduler and scheduler.value != "step":
        reader.refuse_both(steps, scheduler)
    if steps and step_size:
        reader.refuse_both(steps, step_size)
    warmup, in_epochs = (
        reader.entries.get("warmup_steps"),
        reader.entries.get("warmup_cosine_lr_warmup_epochs"),
    )
    if warmup and in_epochs:
        reader.refuse_both(warmup, in_epochs)
    epochs, minutes = reader.entries.get("number_of_epochs"), reader.entries.get("minutes")
    if epochs and minutes:
        reader.refuse_both(epochs, minutes)


def _check_classes(reader: _Reader) -> None:
    class_map, count = reader.entries.get("class_map"), reader.entries.get("num_classes")
    chosen = reader.entries.get("classes")
    counts_chosen = chosen and count and count.value == len(chosen.value)
    for name, needed in _ONLY_WITH.items():
        entry, other = reader.entries.get(name), reader.entries.get(needed)
        if entry and not (other and other.value):
            reader.refuse(entry.name, f"{entry}: applies only with {needed}; give it, or leave this out")
    if class_map and count and len(class_map.value) != count.value and not counts_chosen:
        reader.refuse(class_map.name, f"class_map has {len(class_map.value)} classes, but {count}")


def _check_task(reader: _Reader) -> None:
    classifies = reader.task in CLASSIFICATION_TASKS
    own = CLASSIFICATION_TASKS[0] if classifies else reader.task
    primary = reader.entries.get("primary_metric")
    if primary and not classifies and primary.value in PRIMARY_OF_LABELS:
        reader.refuse(primary.name, f"{primary} is a figure of task=classification; leave it out")
    for canonical, entry in reader.entries.items():
        task = ROWS[canonical].task
        if task and task != own:
            reader.refuse(entry.name, f"{entry}: applies only to task={task}; leave it out")


def _check_augmentations(reader: _Reader) -> None:
    """Azure's switches for random windows and for mosaic, among its advanced settings, are ours."""
    settings = reader.entries.get("advanced_settings")
    if settings is None:
        return
    for switch, name in _SWITCHES.items():
        ours, wanted = reader.entries.get(name), settings.value.get(switch)
        if ours and wanted is not None and wanted != bool(ours.value):
            reader.refuse_both(settings, ours)


def _check_metric(reader: _Reader) -> None:
    kind, primary = reader.entries.get("validation_metric_type"), reader.entries.get("primary_metric")
    if kind and kind.value == "none" and primary:
        reader.refuse(primary.name, f"{primary}: {kind} computes no figures; leave out one")


def _resolve_model(reader: _Reader) -> str | None:
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
        reader.refuse(entry.name, _why_not(entry, model, available))
    return model if model in available else None


def _why_not(entry: _Entry, model: str, available: tuple[str, ...]) -> str:
    tasks = [task for task in task_names() if model.lower() in model_names(task)]
    if tasks:
        return f"{entry} is a model for task={tasks[0]}; available here: {', '.join(available)}"
    suggestion = did_you_mean(entry.text, (*available, YOLOV5))
    return f"{entry}: there is no such model{suggestion}; available: {', '.join(available)}"


def _check_scaling(reader: _Reader, model: str) -> None:
    family = family_of(model)
    scaling = family.scaling
    for canonical, entry in reader.entries.items():
        if ROWS[canonical].scaling not in (None, scaling):
            reader.refuse(entry.name, f"{entry}: {model} takes {_SCALED_BY[scaling]}, instead")
    if scaling == "sides":
        _check_sides(reader, model)
    compiled, multi_scale = reader.entries.get("compile"), reader.entries.get("multi_scale")
    if compiled and compiled.value:
        if scaling == "sides":
            why = f"{model} takes views of many sizes, and would be compiled for each"
            reader.refuse(compiled.name, f"{compiled}: {why}; leave it out")
        elif multi_scale and multi_scale.value:
            reader.refuse(compiled.name, f"{compiled}: {multi_scale} has views of many sizes; leave out one")
    for name in ("mosaic", "mixup"):
        mixing = reader.entries.get(name)
        if mixing and mixing.value and family and family.two_stages:
            reader.refuse(
                mixing.name, f"{mixing}: it is for models of one stage, and {model} has two; leave it out"
            )
    assignment = reader.entries.get("assignment")
    if (
        assignment
        and assignment.value != "default"
        and assignment.value not in (family.assignments if family else ())
    ):
        kinds = ", ".join(each.pattern for each in families() if assignment.value in each.assignments)
        reader.refuse(
            assignment.name, f"{assignment}: it is not defined for {model}, only for {kinds}; leave it out"
        )
    stride_4 = reader.entries.get("stride_4_level")
    if stride_4 and stride_4.value and not family.stride_4_level:
        kinds = ", ".join(each.pattern for each in families() if each.stride_4_level)
        reader.refuse(
            stride_4.name, f"{stride_4}: {model} has no such level, only {kinds} have; leave it out"
        )


def _check_sides(reader: _Reader, model: str) -> None:
    low, high = reader.entries.get("min_size"), reader.entries.get("max_size")
    defaults = _defaults(reader, model)
    least = low.value if low else defaults["min_size"]
    most = high.value if high else defaults["max_size"]
    if low and least > most:
        reader.refuse(low.name, f"{low}: must be at most max_size={most}")
    elif high and least > most:
        reader.refuse(high.name, f"{high}: must be at least min_size={least}")


def _defaults(reader: _Reader, model: str) -> dict[str, Any]:
    """Those of the job's dialect, and in Azure AutoML's those of the model's family before them."""
    family = family_of(model)
    applies = (None, family.scaling)
    task_defaults = family.task_defaults.get(reader.task, {})
    own = {**family.defaults, **task_defaults} if reader.dialect == "azure" else {}
    return {
        name: own.get(name, row.default(reader.dialect)) if row.scaling in applies else None
        for name, row in ROWS.items()
    }


def _complete(reader: _Reader, model: str) -> dict[str, Any]:
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
