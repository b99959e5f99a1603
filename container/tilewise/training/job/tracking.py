"""Where a job tells how it goes while it goes on: TensorBoard's events, and other trackers.

A tracker is worth less than the model: one that fails is left out with a warning, and the training goes on.
"""

from __future__ import annotations

import logging
import os
import re
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from tilewise.hyperparameters import Hyperparameters
from tilewise.stop import StopToken
from tilewise.tasks.task import Scored, Task

log = logging.getLogger(__name__)

PICTURE_TIMES = 10
"""So often in a job pictures of the validation are drawn, at regular distances; after the last epoch too."""

GIB = 1024**3


class Tracker(Protocol):
    """Keeps what a job tells of itself. No method may wait for a network."""

    name: str

    def begin(self, hp: Hyperparameters) -> None:
        """The hyperparameters, before the first figures."""

    def figures(self, values: Mapping[str, float], epoch: int, moment: float) -> None:
        """Figures of an epoch, by their tag; ``moment`` is the seconds since 1970."""

    def picture(self, tag: str, image: Image.Image, epoch: int) -> None:
        """A picture after an epoch."""

    def results(self, output_dir: Path, model_dir: Path) -> None:
        """The job is done, and has left its outputs and its model in these folders."""

    def close(self, *, failed: bool) -> None:
        """Nothing more comes."""


class Tracking:
    """All trackers of a job. Only the leader of several processes has any.

    Args:
        trackers: told of everything.

    """

    def __init__(self, trackers: Sequence[Tracker] = ()):
        self._trackers = list(trackers)
        self._hp: Hyperparameters
        self._task: Task

    def begin(self, hp: Hyperparameters, task: Task, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Tell of the hyperparameters, and of the epochs that a resumed job has behind it."""
        self._hp, self._task = hp, task
        self._tell(methodcaller("begin", hp))
        durations = [epoch["seconds"] + epoch.get("validation_seconds", 0) for epoch in epochs]
        moment = time.time() - sum(durations)
        for epoch, seconds in zip(epochs, durations, strict=True):
            moment += seconds
            values = training_figures(epoch) | task.scalars(epoch.get("validation", {}))
            self._figures(values, epoch["epoch"], moment)

    def trained(self, epoch: Mapping[str, Any]) -> None:
        """Tell of what was learnt in an epoch, or in a part of it."""
        if self._trackers:
            self._figures(training_figures(epoch) | memory_figures(), epoch["epoch"], time.time())

    def validated(
        self,
        epoch: Mapping[str, Any],
        scored: Scored | None,
        classes: tuple[str, ...],
    ) -> None:
        """Tell of the validation after an epoch; now and then with pictures of it."""
        if not self._trackers:
            return
        number, hp, task = epoch["epoch"], self._hp, self._task
        self._figures(task.scalars(epoch["validation"]), number, time.time())
        every = max(1, hp.number_of_epochs // PICTURE_TIMES)
        if scored is None or (number % every and number + 1 < hp.number_of_epochs):
            return
        try:
            pictures = task.validation_pictures(scored, classes, hp.rendering)
        except Exception:
            log.warning("the pictures of the validation could not be drawn", exc_info=True)
            return
        for tag, image in pictures.items():
            self._tell(methodcaller("picture", tag, image, number))

    def results(self, output_dir: Path, model_dir: Path) -> None:
        """Tell where the finished job has left its outputs and its model."""
        self._tell(methodcaller("results", output_dir, model_dir))

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(methodcaller("close", failed=error is not None))

    def _figures(self, values: Mapping[str, float], epoch: int, moment: float) -> None:
        self._tell(methodcaller("figures", values, epoch, moment))

    def _tell(self, say: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                say(tracker)
            except Exception:
                log.warning("%s is left out from now on; the job goes on", tracker.name, exc_info=True)
                self._trackers.remove(tracker)


def open_tracking(folders: Iterable[Path | None], *, job_name: str, stop: StopToken) -> Tracking:
    """TensorBoard in each of the folders, and MLflow where ``MLFLOW_TRACKING_URI`` asks for it.

    Args:
        folders: None for one that the job does not have.
        job_name: what the platform calls the job.
        stop: the job's stop token.

    """
    trackers: list[Tracker] = []
    for folder in dict.fromkeys(folders):
        if folder is not None:
            try:
                trackers.append(TensorBoard(folder))
            except Exception as error:
                log.warning("TensorBoard's events cannot be written to %s: %s", folder, error)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        try:
            # Imported here: only jobs that ask for it have mlflow.
            from tilewise.training.job.mlflow_tracker import MlflowTracker

            trackers.append(MlflowTracker(job_name, stop))
        except ImportError as error:
            log.warning(
                "MLFLOW_TRACKING_URI is set, but mlflow cannot be imported (%s): install "
                "tilewise[mlflow]; the job goes on without it",
                error,
            )
    return Tracking(trackers)


def training_figures(epoch: Mapping[str, Any]) -> dict[str, float]:
    """Losses, learning rate and throughput of an epoch, by their tag."""
    figures = {f"loss/{name}": value for name, value in epoch["losses"].items()}
    if figures:
        figures["loss/total"] = sum(figures.values())
    if "learning_rate" in epoch:
        figures["train/learning_rate"] = epoch["learning_rate"]
    if epoch["seconds"]:
        figures["train/records_per_second"] = epoch["records"] / epoch["seconds"]
    return figures


def memory_figures() -> dict[str, float]:
    """The most memory that this process has used so far, in GiB; on a GPU, the most since the last call."""
    figures = {"memory/process_peak_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    if torch.cuda.is_available():
        figures["memory/gpu_peak_GiB"] = torch.cuda.max_memory_allocated() / GIB
        torch.cuda.reset_peak_memory_stats()
    return figures


class TensorBoard:
    """Event files that TensorBoard shows while they grow.

    A resumed job tells of all its epochs again, so its own file is whole: TensorBoard then forgets what older
    files in the same folder say.

    Args:
        folder: where to.

    """

    def __init__(self, folder: Path):
        # Imported here: it looks at much of the environment, and only a job's leader needs it. SummaryWriter
        # would put a queue between processes in between, and flush what has come through that so far.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.name = f"TensorBoard in {folder}"
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=0, session_log=start))

    def begin(self, hp: Hyperparameters) -> None:
        """Write the hyperparameters that the job was given, as a table."""
        from tensorboardX.summary import text

        values = hp.model_dump(mode="json", include=set(hp.given))
        rows = [f"| {name} | {value} |" for name, value in values.items()]
        table = "\n".join(["| name | value |", "| --- | --- |", *rows])
        self._write([text("hyperparameters", table)], 0, time.time())

    def figures(self, values: Mapping[str, float], epoch: int, moment: float) -> None:
        """Write them, and let a reader see them at once."""
        from tensorboardX.summary import scalar

        self._write([scalar(tag, value) for tag, value in values.items()], epoch, moment)

    def picture(self, tag: str, image: Image.Image, epoch: int) -> None:
        """Write a picture."""
        from tensorboardX.summary import image as summary

        plain = re.sub(r"[^-/\w.]", "_", tag)  # what a tag may hold
        self._write([summary(plain, np.asarray(image), dataformats="HWC")], epoch, time.time())

    def results(self, output_dir: Path, model_dir: Path) -> None:
        """The folders hold it all."""

    def close(self, *, failed: bool) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, summaries: Iterable[Any], epoch: int, moment: float) -> None:
        from tensorboardX.proto.event_pb2 import Event

        for summary in summaries:
            self._writer.write_event(Event(wall_time=moment, step=epoch, summary=summary))
        self._writer.flush()
