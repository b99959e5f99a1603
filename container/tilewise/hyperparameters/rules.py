"""Which hyperparameters go together: with each other, with the job's task and with its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tilewise.hyperparameters.classification import CLASSIFICATION_TASKS, PRIMARY_OF_LABELS
from tilewise.hyperparameters.reader import BUILTIN_MARKS, Reader
from tilewise.hyperparameters.table import ROWS
from tilewise.registry import families, family_of

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

_SCALED_BY = {
    "square": "image_size, the side of its square input",
    "sides": "min_size and max_size, its shorter and longer side",
}


def check_together(reader: Reader) -> None:
    """Refuse what is missing, what has no effect and what contradicts, whatever the model."""
    _check_required(reader)
    _check_schedule(reader)
    _check_classes(reader)
    _check_augmentations(reader)
    _check_metric(reader)
    _check_task(reader)


def _check_required(reader: Reader) -> None:
    if reader.dialect == "azure":
        return
    mark = next(name for name in reader.names if name in BUILTIN_MARKS)
    for name, row in ROWS.items():
        if row.required and name not in reader.names:
            job = f"a job with {mark} and no model_name (one for the built-in algorithm)"
            reader.refuse(name, f"{name} is required in {job}")


def _check_schedule(reader: Reader) -> None:
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


def _check_classes(reader: Reader) -> None:
    class_map, count = reader.entries.get("class_map"), reader.entries.get("num_classes")
    chosen = reader.entries.get("classes")
    counts_chosen = chosen and count and count.value == len(chosen.value)
    for name, needed in _ONLY_WITH.items():
        entry, other = reader.entries.get(name), reader.entries.get(needed)
        if entry and not (other and other.value):
            reader.refuse(entry.name, f"{entry}: applies only with {needed}; give it, or leave this out")
    if class_map and count and len(class_map.value) != count.value and not counts_chosen:
        reader.refuse(class_map.name, f"class_map has {len(class_map.value)} classes, but {count}")


def _check_task(reader: Reader) -> None:
    classifies = reader.task in CLASSIFICATION_TASKS
    own = CLASSIFICATION_TASKS[0] if classifies else reader.task
    primary = reader.entries.get("primary_metric")
    if primary and not classifies and primary.value in PRIMARY_OF_LABELS:
        reader.refuse(primary.name, f"{primary} is a figure of task=classification; leave it out")
    for canonical, entry in reader.entries.items():
        task = ROWS[canonical].task
        if task and task != own:
            reader.refuse(entry.name, f"{entry}: applies only to task={task}; leave it out")


def _check_augmentations(reader: Reader) -> None:
    """Azure's switches for random windows and for mosaic, among its advanced settings, are ours."""
    settings = reader.entries.get("advanced_settings")
    if settings is None:
        return
    for switch, name in _SWITCHES.items():
        ours, wanted = reader.entries.get(name), settings.value.get(switch)
        if ours and wanted is not None and wanted != bool(ours.value):
            reader.refuse_both(settings, ours)


def _check_metric(reader: Reader) -> None:
    kind, primary = reader.entries.get("validation_metric_type"), reader.entries.get("primary_metric")
    if kind and kind.value == "none" and primary:
        reader.refuse(primary.name, f"{primary}: {kind} computes no figures; leave out one")


def check_model(reader: Reader, model: str, defaults: Mapping[str, Any]) -> None:
    """Refuse what a detector of this name does not take.

    Args:
        reader: what is given.
        model: the name.
        defaults: its job's, by canonical name.

    """
    family = family_of(model)
    scaling = family.scaling
    for canonical, entry in reader.entries.items():
        if ROWS[canonical].scaling not in (None, scaling):
            reader.refuse(entry.name, f"{entry}: {model} takes {_SCALED_BY[scaling]}, instead")
    if scaling == "sides":
        _check_sides(reader, defaults)
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


def _check_sides(reader: Reader, defaults: Mapping[str, Any]) -> None:
    low, high = reader.entries.get("min_size"), reader.entries.get("max_size")
    least = low.value if low else defaults["min_size"]
    most = high.value if high else defaults["max_size"]
    if low and least > most:
        reader.refuse(low.name, f"{low}: must be at most max_size={most}")
    elif high and least > most:
        reader.refuse(high.name, f"{high}: must be at least min_size={least}")
