from __future__ import annotations

from tilewise.hyperparameters import Hyperparameters
from tilewise.registry import find_task
from tilewise.tasks.task import Task


def make_task(hp: Hyperparameters) -> Task:
    """What a job's model is trained for, with the job's choice of metrics."""
    task: Task = find_task(hp.task).of_job(hp)
    return task
