"""What a job leaves in ``/opt/ml/output/data`` at its end: ``metrics.json`` and ``report.html``."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tilewise.data.channel import DataSet
from tilewise.evaluation.report_content import ReportContent
from tilewise.hyperparameters.table import ROWS
from tilewise.inference.artifact import add_to_description
from tilewise.tasks.task import Details, Scored, Task
from tilewise.training.history import TrainResult
from tilewise.training.job.context import JobContext

log = logging.getLogger(__name__)


def write_outputs(result: TrainResult, data: DataSet, job: JobContext, *, folder: Path) -> None:
    """Leave the figures of a run for people and for programs.

    The model is worth more than its report: what fails here is logged as a warning, and the job goes on.
    After a request to stop there are seconds left, so what takes long is left out: images.

    Args:
        result: the run.
        data: what it was trained and validated on.
        job: the training job.
        folder: where to.

    """
    start = time.monotonic()
    statistics: dict[str, dict[str, Any]] = {}
    with _only_a_warning("the facts of the data"):
        statistics = data_statistics(data, result.scored, job.task)
    analysis = None
    with _only_a_warning("the details of the validation"):
        if result.scored is not None:
            analysis = job.task.analyse(result.scored, data.classes, result.best)
    with _only_a_warning("the recommended thresholds"):
        if analysis is not None and (recommended := analysis.recommended()):
            add_to_description(job.model_dir, recommended)
    with _only_a_warning("the figures"):
        write_metrics(result, data.classes, folder / "metrics.json", statistics=statistics, analysis=analysis)
    with _only_a_warning("the report"):
        write_report(
            result, data.classes, job, path=folder / "report.html", statistics=statistics, analysis=analysis
        )
        log.info("the report is in %s (%.1f s)", folder / "report.html", time.monotonic() - start)


@contextlib.contextmanager
def _only_a_warning(what: str) -> Iterator[None]:
    try:
        yield
    except Exception:
        log.warning("%s could not be written; the model is not affected", what, exc_info=True)


def data_statistics(data: DataSet, scored: Scored | None, task: Task) -> dict[str, dict[str, Any]]:
    """The figures of each channel, as the task has them.

    Of a pipe only the first images are known, but those that were validated are all known.
    """
    statistics = {}
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, split in splits.items():
        if split is not None:
            whole = split.known_length or (name == "validation" and scored is not None)
            records = scored.records if name == "validation" and scored else split.sample
            statistics[name] = task.channel_statistics(records, split.issues, data.classes, whole=whole)
    return statistics


def write_metrics(
    result: TrainResult,
    classes: tuple[str, ...],
    path: Path,
    *,
    statistics: Mapping[str, Any] | None = None,
    analysis: Details | None = None,
) -> None:
    """Leave all figures of a run as JSON."""
    content = {
        "classes": list(classes),
        "best": result.best,
        "details": analysis.to_json() if analysis else None,
        "test": result.test,
        "data": statistics or {},
        "epochs": result.epochs,
        "stopped": result.stopped,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_report(
    result: TrainResult,
    classes: tuple[str, ...],
    job: JobContext,
    *,
    path: Path,
    statistics: Mapping[str, Mapping[str, Any]],
    analysis: Details | None,
) -> None:
    """Leave the report; without images when the job is to stop."""
    hp = result.hp or job.hp
    content = ReportContent(
        classes=classes,
        epochs=result.epochs,
        best=result.best,
        test=result.test,
        stopped=result.stopped,
        hyperparameters=hp.model_dump(mode="json", include=set(ROWS)),
        given={
            name: spelling
            for name, row in ROWS.items()
            for spelling in (name, row.alias)
            if spelling in hp.given
        },
        data=statistics,
        rendering=hp.rendering,
        analysis=analysis,
        from_scratch=result.from_scratch,
    )
    page = job.task.report_page(content, job.stop)
    # A file name that is not UTF-8 holds surrogates, which no UTF-8 file can.
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
