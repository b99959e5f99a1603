"""The tasks that a model can be trained for: of each one where its class is, so that none is imported."""

from __future__ import annotations

from typing import Any

from tilewise.registry.family import load

DEFAULT_TASK = "detection"
"""What a job or a model is for that names no task."""

_tasks = {
    DEFAULT_TASK: "tilewise.tasks.detection.task:DetectionTask",
    "instance_segmentation": "tilewise.tasks.segmentation.task:SegmentationTask",
    "classification": "tilewise.tasks.classification.task:ClassificationTask",
    "multilabel_classification": "tilewise.tasks.classification.task:MultilabelTask",
}


def register_task(name: str, reference: str) -> None:
    """Add a task to this process's registry: its models are then trained and served as all others are.

    Args:
        name: as the hyperparameter ``task`` and ``model.json`` have it.
        reference: ``module:name`` of its class, a :class:`tilewise.tasks.task.Task`.

    Raises:
        ValueError: the name is taken.

    """
    if name in _tasks:
        raise ValueError(f"already registered: {name}")
    _tasks[name] = reference


def unregister_task(name: str) -> None:
    """Take the task of that name out again."""
    del _tasks[name]


def task_names() -> tuple[str, ...]:
    """The names of all tasks."""
    return tuple(_tasks)


def find_task(name: str) -> Any:
    """The class of the task of that name; imports it.

    Raises:
        UserError: there is no such task.

    """
    if name not in _tasks:
        # Imported here: docker/fetch_weights.py has nothing but the registry.
        from tilewise.errors import UserError

        raise UserError(
            f"this version of Tilewise has no task {name}; the tasks are: {', '.join(sorted(_tasks))}"
        )
    return load(_tasks[name])
