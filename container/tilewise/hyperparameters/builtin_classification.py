"""Jobs of the built-in Image Classification algorithm, written anew in the names of the table.

The algorithm shares names with the table and means others by some. Source: SageMaker's developer guide,
"Image Classification Hyperparameters".
"""

from __future__ import annotations

from collections.abc import Mapping
from math import atan, degrees

from tilewise.errors import UserError

SIGNS = ("num_layers", "augmentation_type", "multi_label")
"""Hyperparameters that the built-in Image Classification alone has."""

TOP_K = "top_k"
"""This one is the table's, too: in a job that names its ``task``, as no built-in one does, it is no sign."""

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


def is_builtin_classification(texts: Mapping[str, str]) -> bool:
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
