from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilewise.inference.artifact import (
    DESCRIPTION,
    Artifact,
    add_to_description,
    remove_others,
    write_file,
)
from tilewise.models.spec import ModelSpec
from tilewise.tasks.task import Scored
from tilewise.training.job.context import JobContext
from tilewise.training.job.early_stopping import BestScore
from tilewise.training.step.train_step import TrainStep

log = logging.getLogger(__name__)


class BestModel:
    """The model that a job keeps in its model folder: the best that was validated, else the last.

    Args:
        job: the training job.
        spec: of the model.
        classes: their names, by label.
        train_step: has the weights.

    Attributes:
        score: the best so far, and how long there has been no better one.
        metrics: the figures of the model that is kept; empty where it was not validated.
        scored: what it found in the validation images, in this process of the job.
        saved: whether the folder holds a model of this run.

    """

    def __init__(self, job: JobContext, spec: ModelSpec, classes: tuple[str, ...], *, train_step: TrainStep):
        self.job, self.spec, self.classes, self.train_step = job, spec, classes, train_step
        hp = job.hp
        patience = hp.early_stopping_patience if hp.early_stopping else None
        self.score = BestScore(
            patience,
            hp.early_stopping_delay,
            hp.early_stopping_tolerance,
            waits_first=hp.spelling("early_stopping_delay") == "early_stopping_delay",
        )
        self.metrics: dict[str, Any] = {}
        self.scored: Scored | None = None
        self.saved = False

    def offer(self, epoch: int, metrics: dict[str, Any], scored: Scored | None) -> None:
        """Log how good the model is after an epoch, and keep it if none was better."""
        task, lines = self.job.task, self.job.lines
        scores = task.scores(metrics)
        lines.validation(epoch, scores, task.describe("validation", metrics))
        name, score = list(scores.items())[-1]
        if self.score.update(score, epoch + 1):
            lines.best(name, score)
            self.metrics, self.scored = metrics, scored
            self.save(epoch, {"epoch": epoch, **metrics})

    def save(self, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Keep the model as it is after an epoch."""
        self.saved = True
        if self.job.distributed.is_main_process:
            artifact = Artifact(
                self.train_step.evaluated,
                self.spec,
                self.classes,
                hyperparameters=self._hyperparameters(),
                metrics=metrics,
                environment=self.job.environment,
                task=self.job.task.name,
            )
            artifact.save(self.job.model_dir, f"model-{epoch:04d}")

    def finish(self) -> None:
        """Let the kept model tell the hyperparameters of the job's end: ``minutes`` may be planned anew."""
        if self.job.distributed.is_main_process and self.job.hp.minutes is not None:
            add_to_description(self.job.model_dir, {"hyperparameters": self._hyperparameters()})

    def warn_of_nothing_learnt(self) -> None:
        """Say so where even the best epoch's figure is 0: such a model finds nothing."""
        if self.metrics and self.score.best == 0:
            log.warning(
                "the model has not learnt to find anything: its best validation figure is 0. Train longer "
                "(number_of_epochs, minutes), begin with pretrained weights if it began with random ones, "
                "or look at the training views: `tilewise inspect --augmented`"
            )

    def _hyperparameters(self) -> dict[str, Any]:
        return self.job.hp.model_dump(mode="json")

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; with the files, since a restarted job finds its folder empty."""
        return {
            "score": self.score.state_dict(),
            "metrics": json.dumps(self.metrics),
            "files": read_model_files(self.job.model_dir) if self.saved else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`: the leader puts the files back into the model folder."""
        self.score.load_state_dict(state["score"])
        self.metrics = json.loads(state["metrics"])
        self.saved = bool(state["files"])
        if self.job.distributed.is_main_process:
            write_model_files(state["files"], self.job.model_dir)


def read_model_files(folder: Path) -> dict[str, Tensor]:
    """The files of a model by their name, as bytes."""
    weights = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["weights"]
    return {
        name: torch.frombuffer(bytearray((folder / name).read_bytes()), dtype=torch.uint8)
        for name in (os.path.basename(weights), DESCRIPTION)
    }


def write_model_files(files: Mapping[str, Tensor], folder: Path) -> None:
    """Write the files of a model; at every moment the folder holds the old model or the new one, whole."""
    for name in sorted(files, key=lambda name: name == DESCRIPTION):
        write_file(folder / name, partial(Path.write_bytes, data=files[name].numpy().tobytes()))
    if files:
        remove_others(folder, min(files, key=lambda name: name == DESCRIPTION))
