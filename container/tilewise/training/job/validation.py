"""Validation by several processes, and the figures of a test channel."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tilewise.data.annotations import ChannelIssues
from tilewise.data.records import Records
from tilewise.data.source import RecordSource
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.evaluate import evaluate
from tilewise.hyperparameters import Hyperparameters
from tilewise.inference.predictor import Predictor
from tilewise.training.distributed.context import DistributedContext


def gather(distributed: DistributedContext, issues: ChannelIssues, scored: Scored | None) -> Scored | None:
    """What all processes have found, in the order of the records, for the leader; None if any was stopped."""
    if distributed.size == 1:
        return scored
    parts = distributed.gather((scored, dict(issues.left_out)))
    found = [part for part, _ in parts if part is not None]
    if len(found) < len(parts) or not distributed.is_main_process:
        return None
    for _, left_out in parts:
        for key, reason in left_out.items():
            issues.leave_out(key, reason)
    pairs = [zip(part.records, part.detections, strict=True) for part in found]
    merged = [pair for row in zip_longest(*pairs) for pair in row if pair is not None]
    return Scored(Records(record for record, _ in merged), [detections for _, detections in merged])


def test(
    split: RecordSource, hp: Hyperparameters, model_dir: Path, should_stop: Callable[[], bool]
) -> dict[str, Any] | None:
    """The figures of the saved model on a test channel; None when it was stopped.

    Raises:
        UserError: too many images are damaged.

    """
    predictor = Predictor.load(model_dir, batch_size=hp.validation_batch_size)
    return evaluate(predictor, split.one_pass(), split.issues, hp.validation_iou_threshold, should_stop)
