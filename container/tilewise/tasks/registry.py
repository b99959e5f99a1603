from __future__ import annotations

from tilewise.evaluation.voc import VocMetric
from tilewise.hyperparameters import Hyperparameters
from tilewise.tasks.detection import DetectionTask
from tilewise.tasks.task import Task


def make_task(hp: Hyperparameters) -> Task:
    """What a job's model is trained for, with the job's choice of metrics; there is but one task yet."""
    voc = VocMetric(hp.validation_iou_threshold, "11" if hp.dialect == "builtin" else "all")
    primary = None if hp.primary_metric == "mean_average_precision" else hp.primary_metric
    return DetectionTask(hp.validation_metric_type, voc, primary)
