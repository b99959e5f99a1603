from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilewise.hyperparameters import Hyperparameters
from tilewise.stop import NEVER, StopToken
from tilewise.tasks.task import Task
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.training.job.metric_lines import MetricLines
from tilewise.training.job.tracking import Tracking

FROM_SCRATCH = "trained_from_scratch"
"""In a job's environment: why it trains from scratch although weights were asked for."""


@dataclass
class JobContext:
    """What each part of a training job may know of the job, and all that it knows of the platform.

    Attributes:
        hp: the job's hyperparameters; a job of so many ``minutes`` may replace them while it trains.
        task: what the model is trained for.
        lines: prints the metrics.
        model_dir: where the best model is kept, see :class:`tilewise.inference.artifact.Artifact`.
        checkpoint_dir: where checkpoints are, for messages.
        distributed: the processes that train together.
        stop: the job's stop token.
        name: what the platform calls the job; "" where it has no name.
        environment: what the job runs on, for ``model.json``.
        tracking: told of the figures of each epoch while the job goes on.

    """

    hp: Hyperparameters
    task: Task
    lines: MetricLines
    model_dir: Path
    checkpoint_dir: Path | None = None
    distributed: DistributedContext = SINGLE_PROCESS
    stop: StopToken = NEVER
    name: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    tracking: Tracking = field(default_factory=Tracking)

    def stopping(self) -> bool:
        """Whether any process has been asked to stop: all ask, and all stop after the same step."""
        return self.distributed.any(self.stop.requested)
