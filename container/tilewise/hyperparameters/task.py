"""What a job's model is for. It is decided before the table is read, which depends on it."""

from __future__ import annotations

from collections.abc import Mapping

from tilewise.errors import UserError
from tilewise.hyperparameters.builtin_classification import is_builtin_classification, is_multilabel
from tilewise.hyperparameters.values import shown
from tilewise.registry import DEFAULT_TASK, model_names, task_names
from tilewise.registry.classifiers import CLASSIFICATION, MULTILABEL

DETECTION, SEGMENTATION = DEFAULT_TASK, "instance_segmentation"

_SPELLINGS = {
    "object-detection": DETECTION,
    "image-object-detection": DETECTION,
    "instance-segmentation": SEGMENTATION,
    "image-instance-segmentation": SEGMENTATION,
    "image-classification": CLASSIFICATION,
    "image-classification-multilabel": MULTILABEL,
    "multilabel-classification": MULTILABEL,
}
"""Ours and Azure AutoML's names, which has hyphens in its trainer and underscores in its jobs."""


def decide_task(texts: Mapping[str, str]) -> str:
    """What a job trains a model for: what ``task`` says, else what its other hyperparameters are a sign of.

    Args:
        texts: the job's hyperparameters as bare texts, "" where one has no value.

    Raises:
        UserError: there is no such task.

    """
    name = texts.get("task", "")
    if not name:
        task = _by_signs(texts)
    elif name.lower() in task_names():
        task = name.lower()
    else:
        known = ", ".join(task_names())
        task = _SPELLINGS.get(name.lower().replace("_", "-"), "")
        if not task:
            raise UserError(f"task={shown(name)}: there is no such task: those that there are: {known}")
    return MULTILABEL if task == CLASSIFICATION and is_multilabel(texts) else task


def _by_signs(texts: Mapping[str, str]) -> str:
    model = texts.get("model_name", "").lower()
    if is_builtin_classification(texts):
        return CLASSIFICATION
    for task in (SEGMENTATION, CLASSIFICATION):
        if model in model_names(task) and model not in model_names(DETECTION):
            return task
    return DETECTION
