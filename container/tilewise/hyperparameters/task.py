"""What a job's model is for. It is decided before the table is read, which depends on it."""

from __future__ import annotations

from collections.abc import Mapping

from tilewise.errors import UserError
from tilewise.registry import DEFAULT_TASK, model_names, task_names

DETECTION, SEGMENTATION = DEFAULT_TASK, "instance_segmentation"

_SPELLINGS = {
    "detection": DETECTION,
    "object-detection": DETECTION,
    "image-object-detection": DETECTION,
    "instance-segmentation": SEGMENTATION,
    "image-instance-segmentation": SEGMENTATION,
    "classification": "image classification",
    "image-classification": "image classification",
    "image-classification-multilabel": "image classification",
}
"""Ours and Azure AutoML's names, which has hyphens in its trainer and underscores in its jobs."""

_CLASSIFICATION_ONLY = ("num_layers", "augmentation_type", "top_k", "multi_label")
"""Hyperparameters of the built-in Image Classification algorithm that its Object Detection does not have."""


def decide_task(texts: Mapping[str, str]) -> str:
    """What a job trains a model for: what ``task`` says, else what its other hyperparameters are a sign of.

    Args:
        texts: the job's hyperparameters as bare texts, "" where one has no value.

    Raises:
        UserError: there is no such task, or not yet.

    """
    name = texts.get("task", "")
    if name in task_names():
        return name
    if name:
        task = _SPELLINGS.get(name.lower().replace("_", "-"))
        if task is None:
            known = " and ".join(task_names())
            raise UserError(f"task={name}: there is no such task: {known} are those that there are")
        sign = f"task={name}"
    else:
        task, sign = _by_signs(texts)
    if task not in task_names():
        raise UserError(
            f"{sign} asks for {task}, which this version cannot train yet, only objects' boxes and masks: "
            f"give task={DETECTION} or task={SEGMENTATION} and a job for it"
        )
    return task


def _by_signs(texts: Mapping[str, str]) -> tuple[str, str]:
    """A task, and the hyperparameter that is the sign of it."""
    for name in _CLASSIFICATION_ONLY:
        if texts.get(name):
            return "image classification", f"{name}={texts[name]}"
    shape = texts.get("image_shape", "")
    if len(shape.split(",")) == 3:  # channels, height, width; the Object Detection's is one number
        return "image classification", f"image_shape={shape}"
    model = texts.get("model_name", "").lower()
    if model in model_names(SEGMENTATION) and model not in model_names(DETECTION):
        return SEGMENTATION, f"model_name={model}"
    return DETECTION, ""
