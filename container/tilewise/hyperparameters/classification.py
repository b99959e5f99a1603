"""What jobs for image classification write in ways of their own.

The built-in Image Classification algorithm shares names with the table and means others by some: its job is
written anew in the table's names before that is read. Source: SageMaker's developer guide, "Image
Classification Hyperparameters".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import atan, degrees
from typing import Any, Protocol

from tilewise.errors import UserError
from tilewise.registry.classifiers import CLASSIFICATION, MULTILABEL

CLASSIFICATION_TASKS = (CLASSIFICATION, MULTILABEL)

SIGNS = ("num_layers", "augmentation_type", "multi_label")
"""Hyperparameters that the built-in Image Classification alone has."""

TOP_K = "top_k"
"""This one is the table's, too: in a job that names its ``task``, as no built-in one does, it is no sign."""

OF_OBJECTS = (
    *("Detections", "Small objects"),  # groups of the table
    *("image_size", "min_size", "max_size", "multi_scale", "stride_4_level", "freeze_layer_pattern"),
    *("classes", "other_classes", "label_width", "mosaic", "mixup", "plain_epochs", "model_size"),
    *("validation_iou_threshold", "backbone_learning_rate_factor", "compile"),
)
"""Hyperparameters, and groups of them, that a job for classification cannot give."""

OF_TILES = ("tile_grid_size", "tile_size", "tile_overlap_ratio")
"""Those of these groups that it can."""

_PRIMARY = ("accuracy", "AUC_weighted", "norm_macro_recall", "average_precision_score_weighted")
PRIMARY = {CLASSIFICATION: (*_PRIMARY, "precision_score_weighted"), MULTILABEL: ("iou", *_PRIMARY)}
PRIMARY_OF_LABELS = frozenset(name for names in PRIMARY.values() for name in names)
"""The figures that may choose the best epoch."""

_DEPTHS = ("18", "34", "50", "101", "152", "200")
_SMALL_DEPTHS = ("20", "32", "44", "56", "110")
_UNSET = ("", "none", "null")
_TRUE, _FALSE = ("1", "true"), ("0", "false", "")
_SHEAR = degrees(atan(0.1))
_DEFAULTS = {
    "epochs": "30",
    "learning_rate": "0.1",
    "lr_scheduler_factor": "0.1",
    "learning_rate_scheduler": "step",
    "step_lr_step_size": "0",
    "mini_batch_size": "32",
    "momentum": "0.9",
    "weight_decay": "0.0001",
    "use_pretrained_model": "0",
    "early_stopping": "0",
    "early_stopping_min_epochs": "10",
    "early_stopping_patience": "5",
}
_AUGMENTATIONS = {
    "": {"random_windows": "0"},
    "crop": {},
    "crop_color": {},
    "crop_color_transform": {"rotation": "10", "shear": f"{_SHEAR:.3g}"},
}


def is_builtin(texts: Mapping[str, str]) -> bool:
    """Whether a job is one for the built-in Image Classification algorithm."""
    if texts.get("model_name"):
        return False
    signs = SIGNS if texts.get("task") else (*SIGNS, TOP_K)
    return (
        any(texts.get(name, "").lower() not in _UNSET for name in signs)
        or len(texts.get("image_shape", "").split(",")) == 3
    )


def in_names_of_table(texts: Mapping[str, str]) -> dict[str, str]:
    """The hyperparameters of a job for the built-in algorithm, in the names of the table, with its defaults.

    Raises:
        UserError: a value is none of the algorithm's, or asks for what there is not.

    """
    given = {name: text for name, text in texts.items() if text.lower() not in _UNSET}
    missing = [name for name in ("num_classes", "num_training_samples") if name not in given]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} required in a job with the "
            "built-in Image Classification algorithm's hyperparameters"
        )
    crop = _crop(given.pop("image_shape", "3,224,224"))
    resize = given.pop("resize", "") or str(round(int(crop) * 256 / 224))
    own = {
        "model_name": f"resnet{_depth(given.pop('num_layers', '152'))}",
        "training_crop_size": crop,
        "validation_crop_size": crop,
        "validation_resize_size": resize,
        "validation_batch_size": given.get("mini_batch_size", _DEFAULTS["mini_batch_size"]),
        **_AUGMENTATIONS[_one_of(given, "augmentation_type", _AUGMENTATIONS)],
        **_optimizer(given),
    }
    if _flag(given, "use_weighted_loss"):
        own["weighted_loss"] = "2"
    precision = _one_of(given, "precision_dtype", {"": "", "float32": "", "float16": ""})
    own |= {"precision": f"fp{precision[5:]}"} if precision else {}
    _flag(given, "multi_label")  # it has decided the task
    if "lr_scheduler_step" in given:
        own["step_lr_step_size"] = ""
    for name, theirs in (("beta_1", "beta1"), ("beta_2", "beta2")):
        own |= {theirs: given.pop(name)} if name in given else {}
    for name, default in (("eps", 1e-8), ("gamma", 0.9)):
        text = given.pop(name, "")
        if text and not _is_number(text, default):
            raise UserError(f"{name}={text}: it is always {default:g} here; leave it out")
    # there it says which checkpoints go into the model's archive; here the best model alone does
    given.pop("checkpoint_frequency", "")
    return _DEFAULTS | given | own


def is_multilabel(texts: Mapping[str, str]) -> bool:
    """Whether the built-in algorithm's flag for several labels an image is set."""
    return texts.get("multi_label", "").lower() in _TRUE


def _crop(shape: str) -> str:
    parts = [part.strip() for part in shape.strip("[]()").split(",")]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise UserError(
            f"image_shape={shape}: give channels, height and width, such as 3,224,224 (one number is the "
            "built-in Object Detection's)"
        )
    channels, height, width = parts
    if channels != "3" or height != width or int(height) < 32:
        raise UserError(
            f"image_shape={shape}: models see three channels, and squares from 32 pixels on: give 3,224,224, "
            "for instance"
        )
    return height


def _depth(text: str) -> str:
    if text in _DEPTHS:
        return text
    depths = f"num_layers is one of {', '.join(_DEPTHS)}"
    if text in _SMALL_DEPTHS:
        nearest = min(_DEPTHS, key=lambda depth: abs(int(depth) - int(text)))
        raise UserError(
            f"num_layers={text}: networks for images of 28 pixels are not built here; take "
            f"num_layers={nearest}, the nearest ({depths})"
        )
    raise UserError(f"num_layers={text}: {depths}")


def _optimizer(given: dict[str, str]) -> dict[str, str]:
    """``nag`` is ``sgd`` with Nesterov's momentum."""
    name = _one_of(given, "optimizer", {"": "", "sgd": "", "adam": "", "rmsprop": "", "nag": ""})
    if name == "nag":
        return {"optimizer": "sgd", "nesterov": "1"}
    return {"optimizer": name or "sgd", "nesterov": "0"}


def _is_number(text: str, value: float) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


def _one_of(given: dict[str, str], name: str, values: Mapping[str, object]) -> str:
    text = given.pop(name, "")
    value = text.lower()
    if value not in values:
        possible = ", ".join(each for each in values if each)
        raise UserError(f"{name}={text}: must be one of {possible}")
    return value


def _flag(given: dict[str, str], name: str) -> bool:
    text = given.pop(name, "")
    if text.lower() not in (*_TRUE, *_FALSE):
        raise UserError(f"{name}={text}: must be 0 or 1")
    return text.lower() in _TRUE


class _Entry(Protocol):
    @property
    def name(self) -> str:
        """As written."""

    @property
    def value(self) -> Any:
        """As read."""


def check_classification(
    task: str,
    entries: Mapping[str, _Entry],
    groups: Mapping[str, str],
    *,
    values: Mapping[str, Any],
    refuse: Callable[[str, str], None],
) -> None:
    """Refuse what does not go with images that have classes, or with the model.

    Args:
        task: the job's.
        entries: what the user gave, by canonical name.
        groups: the heading of each hyperparameter of the table.
        values: what holds, given or not.
        refuse: called with the name and the problem.

    """
    for canonical, entry in entries.items():
        of_objects = canonical in OF_OBJECTS or groups[canonical] in OF_OBJECTS
        if of_objects and canonical not in OF_TILES:
            refuse(entry.name, f"{entry} has no effect with task={task}, which has no objects; leave it out")
    kind, primary = entries.get("validation_metric_type"), entries.get("primary_metric")
    if kind and kind.value != "none":
        refuse(kind.name, f"{kind} is of boxes: with task={task} leave it out, or give none")
    if primary and primary.value not in PRIMARY[task]:
        refuse(primary.name, f"{primary}: with task={task} it must be one of {', '.join(PRIMARY[task])}")
    _check_tiles(entries, values, refuse)
    _check_objects(entries, values, refuse)
    _check_crops(entries, values, refuse)


def _check_tiles(
    entries: Mapping[str, _Entry], values: Mapping[str, Any], refuse: Callable[[str, str], None]
) -> None:
    grid, overlap = entries.get("tile_grid_size"), entries.get("tile_overlap_ratio")
    if grid and grid.value == "auto":
        refuse(
            grid.name,
            f"{grid}: a grid is chosen by the sizes of objects, and there are none here: give columns x "
            "rows, such as 3x2",
        )
    if overlap and not (values["tile_grid_size"] or values["tile_size"]):
        refuse(
            overlap.name,
            f"{overlap}: there are no tiles; give tile_grid_size or tile_size, or leave it out",
        )


def _check_objects(
    entries: Mapping[str, _Entry], values: Mapping[str, Any], refuse: Callable[[str, str], None]
) -> None:
    rendered = entries.get("bands") or entries.get("pixel_range")
    if rendered and values["objects_as"] == "crops":
        refuse(
            rendered.name,
            f"{rendered}: objects that are cut out are kept in 8 bits and three bands, so that it does "
            "not go with objects_as=crops; leave out one",
        )


def _check_crops(
    entries: Mapping[str, _Entry], values: Mapping[str, Any], refuse: Callable[[str, str], None]
) -> None:
    model, training = values["model_name"], values["training_crop_size"]
    crop, resize = values["validation_crop_size"], values["validation_resize_size"]
    named = next((name for name in entries if name.endswith("_crop_size")), "validation_resize_size")
    if resize < crop:
        refuse(
            "validation_resize_size",
            f"validation_resize_size={resize} is less than validation_crop_size={crop}: the shorter side "
            "must hold the crop",
        )
    if training != crop and (model.startswith("vit") or not values["random_windows"]):
        why = f"{model} sees one size only" if model.startswith("vit") else "without random windows"
        refuse(named, f"training_crop_size={training} and validation_crop_size={crop} must be equal: {why}")
    step = 16 if model.startswith("vit") else 32 if model == "seresnext" else 1
    takes = f"a multiple of {step}, and at least 32" if step > 1 else "at least 32"
    for name in ("training_crop_size", "validation_crop_size"):
        if values[name] % step or values[name] < 32:
            refuse(name, f"{name}={values[name]}: {model} takes {takes} pixels")
