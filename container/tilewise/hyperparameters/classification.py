"""Which hyperparameters go with images that have classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tilewise.hyperparameters.groups.detections import DetectionsHyperparameters
from tilewise.hyperparameters.groups.small_objects import SmallObjectsHyperparameters
from tilewise.hyperparameters.reader import Reader
from tilewise.registry.classifiers import CLASSIFICATION, MULTILABEL

CLASSIFICATION_TASKS = (CLASSIFICATION, MULTILABEL)

OF_OBJECTS = (
    *DetectionsHyperparameters.model_fields,
    *SmallObjectsHyperparameters.model_fields,
    *("image_size", "min_size", "max_size", "multi_scale", "stride_4_level", "freeze_layer_pattern"),
    *("classes", "other_classes", "label_width", "mosaic", "mixup", "plain_epochs", "model_size"),
    *("validation_iou_threshold", "backbone_learning_rate_factor", "compile"),
)
"""Hyperparameters that a job for classification cannot give."""

OF_TILES = ("tile_grid_size", "tile_size", "tile_overlap_ratio")
"""Those of them that it can."""

_PRIMARY = ("accuracy", "AUC_weighted", "norm_macro_recall", "average_precision_score_weighted")
PRIMARY = {CLASSIFICATION: (*_PRIMARY, "precision_score_weighted"), MULTILABEL: ("iou", *_PRIMARY)}
PRIMARY_OF_LABELS = frozenset(name for names in PRIMARY.values() for name in names)
"""The figures that may choose the best epoch."""


def check_classification(reader: Reader, values: Mapping[str, Any]) -> None:
    """Refuse what does not go with images that have classes, or with the model.

    Args:
        reader: what is given.
        values: what holds, given or not.

    """
    task, entries, refuse = reader.task, reader.entries, reader.refuse
    for canonical, entry in entries.items():
        if canonical in OF_OBJECTS and canonical not in OF_TILES:
            refuse(entry.name, f"{entry} has no effect with task={task}, which has no objects; leave it out")
    kind, primary = entries.get("validation_metric_type"), entries.get("primary_metric")
    if kind and kind.value != "none":
        refuse(kind.name, f"{kind} is of boxes: with task={task} leave it out, or give none")
    if primary and primary.value not in PRIMARY[task]:
        refuse(primary.name, f"{primary}: with task={task} it must be one of {', '.join(PRIMARY[task])}")
    _check_tiles(reader, values)
    _check_objects(reader, values)
    _check_crops(reader, values)


def _check_tiles(reader: Reader, values: Mapping[str, Any]) -> None:
    grid, overlap = reader.entries.get("tile_grid_size"), reader.entries.get("tile_overlap_ratio")
    if grid and grid.value == "auto":
        reader.refuse(
            grid.name,
            f"{grid}: a grid is chosen by the sizes of objects, and there are none here: give columns x "
            "rows, such as 3x2",
        )
    if overlap and not (values["tile_grid_size"] or values["tile_size"]):
        reader.refuse(
            overlap.name,
            f"{overlap}: there are no tiles; give tile_grid_size or tile_size, or leave it out",
        )


def _check_objects(reader: Reader, values: Mapping[str, Any]) -> None:
    rendered = reader.entries.get("bands") or reader.entries.get("pixel_range")
    if rendered and values["objects_as"] == "crops":
        reader.refuse(
            rendered.name,
            f"{rendered}: objects that are cut out are kept in 8 bits and three bands, so that it does "
            "not go with objects_as=crops; leave out one",
        )


def _check_crops(reader: Reader, values: Mapping[str, Any]) -> None:
    model, training = values["model_name"], values["training_crop_size"]
    crop, resize = values["validation_crop_size"], values["validation_resize_size"]
    named = next((name for name in reader.entries if name.endswith("_crop_size")), "validation_resize_size")
    if resize < crop:
        reader.refuse(
            "validation_resize_size",
            f"validation_resize_size={resize} is less than validation_crop_size={crop}: the shorter side "
            "must hold the crop",
        )
    if training != crop and (model.startswith("vit") or not values["random_windows"]):
        why = f"{model} sees one size only" if model.startswith("vit") else "without random windows"
        reader.refuse(
            named, f"training_crop_size={training} and validation_crop_size={crop} must be equal: {why}"
        )
    step = 16 if model.startswith("vit") else 32 if model == "seresnext" else 1
    takes = f"a multiple of {step}, and at least 32" if step > 1 else "at least 32"
    for name in ("training_crop_size", "validation_crop_size"):
        if values[name] % step or values[name] < 32:
            reader.refuse(name, f"{name}={values[name]}: {model} takes {takes} pixels")
