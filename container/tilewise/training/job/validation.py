"""Validation by several processes, and the figures of a test channel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.source import RecordSource
from tilewise.inference.predictor import Predictor
from tilewise.tasks.task import Scored
from tilewise.training.distributed.context import DistributedContext
from tilewise.training.job.batch_size import validation_batch_size
from tilewise.training.job.context import JobContext

log = logging.getLogger(__name__)


class Validator:
    """Scores the model on the validation data, as one of the processes that train.

    Args:
        job: the training job.
        source: the validation data, if there are any.
        predictor: the model as it is when all processes ask for it.

    """

    def __init__(self, job: JobContext, source: RecordSource | None, predictor: Callable[[], Predictor]):
        self.job, self.source, self.predictor = job, source, predictor

    @property
    def wanted(self) -> bool:
        """Whether the job validates at all."""
        return self.source is not None and self.job.hp.validation_metric_type != "none"

    def due(self, epoch: int) -> bool:
        """Whether it validates after this epoch; after the last one always."""
        done = epoch + 1
        return done == self.job.hp.number_of_epochs or done % self.job.hp.evaluation_frequency == 0

    def validate(self, epoch: dict[str, Any]) -> tuple[dict[str, Any], Scored | None] | None:
        """Score the model; all processes must call it. The figures are added to ``epoch``.

        Returns:
            The figures, and for the leader what they are of; None where the job is to stop first.

        Raises:
            UserError: too many images are damaged.

        """
        assert self.source is not None
        distributed, issues = self.job.distributed, self.source.issues
        everywhere = partial(gather, distributed, issues)
        evaluation = self.job.task.evaluate(
            self.predictor(), self.source.part(), issues, stop=self.job.stop, gather=everywhere
        )
        metrics = distributed.broadcast(evaluation.metrics if evaluation else None)
        if metrics is None:
            return None
        self.source.finish_pass()
        epoch["validation"] = metrics
        return metrics, evaluation.scored if evaluation else None

    def score_again(self) -> Scored | None:
        """What the saved model finds in the validation images, where they can be had again."""
        if self.source is None or not self.source.supports_random_access:
            return None
        log.info("the best model is of an epoch before the interruption: it is scored again for the report")
        predictor = _load_saved(self.job)
        evaluation = self.job.task.evaluate(
            predictor,
            self.source.one_pass(),
            self.source.issues,
            stop=self.job.stop,
            gather=lambda scored: scored,
        )
        return evaluation.scored if evaluation else None


def gather(distributed: DistributedContext, issues: ChannelIssues, scored: Scored | None) -> Scored | None:
    """What all processes have found, in the order of the records, for the leader; None if any was stopped."""
    if distributed.size == 1:
        return scored
    parts = distributed.gather((scored, dict(issues.left_out)))
    results = [part for part, _ in parts if part is not None]
    if len(results) < len(parts) or not distributed.is_main_process:
        return None
    for _, left_out in parts:
        for key, reason in left_out.items():
            issues.leave_out(key, reason)
    return type(results[0]).interleaved(results)


def test(source: RecordSource, job: JobContext) -> dict[str, Any] | None:
    """The figures of the saved model on a test channel; None when it was stopped.

    Raises:
        UserError: too many images are damaged.

    """
    predictor = _load_saved(job)
    evaluation = job.task.evaluate(
        predictor, source.one_pass(), source.issues, stop=job.stop, gather=lambda scored: scored
    )
    return evaluation.metrics if evaluation else None


def _load_saved(job: JobContext) -> Predictor:
    """The model that was kept, on one GPU, whose batches are those of a process that validates."""
    size = validation_batch_size(job.hp, job.distributed.local_size)
    return Predictor.load(job.model_dir, batch_size=size, backend="eager")
