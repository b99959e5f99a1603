"""Precision and threads of a training on a CPU, by trial: which are fastest differs from CPU to CPU."""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from tilewise.data.source import RecordSource
from tilewise.models.detector import VisionModel
from tilewise.models.spec import ModelSpec
from tilewise.registry import find_model
from tilewise.training.dataloading.batch import Batch
from tilewise.training.job.batch_size import synthetic_batch, training_batch_size, undisturbed
from tilewise.training.job.context import JobContext
from tilewise.training.step.amp import has_bf16_instructions
from tilewise.training.step.extra_losses import ExtraLoss
from tilewise.training.step.train_step import TrainStep
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling

log = logging.getLogger(__name__)

WORTH_IT = 200
"""Steps of a training from which on a trial pays; a shorter one has it where ``minutes`` need its figure."""

STEP_SECONDS = 0.3
"""About what a tried step takes: the number of its views, then their size, follow from it."""

PATCH = 32
"""Smaller views have sides of a multiple of it: maps of all strides and a transformer's patches are whole."""

LEAST_ROUNDS, MOST_ROUNDS, RACE_SECONDS, LONGEST_RACE = 3, 5, 3.0, 20.0
"""So often settings are tried in turns: more often than the least only within some seconds."""

CLEARLY = 1.03
"""So many times as fast fewer threads must be to be taken."""


class Setting(NamedTuple):
    """What a training computes with on a CPU."""

    precision: str
    threads: int

    def __str__(self) -> str:
        return f"{self.precision} on {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass
class Compute:
    """What a training computes with, and how fast that was in the trial; a part of a checkpoint.

    Attributes:
        threads: of this process, on a CPU.
        fixed: whether they may not change: the user chose them, or asked for ``deterministic=1``.
        pixels_per_second: of training views, at the start; 0 where nothing was tried.

    """

    threads: int = field(default_factory=torch.get_num_threads)
    fixed: bool = False
    pixels_per_second: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"threads": self.threads}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the threads of the interrupted run again, as far as there are so many here."""
        if not self.fixed:
            self.threads = min(self.threads, state["threads"])
            torch.set_num_threads(self.threads)


def threads_are_fixed(job: JobContext) -> bool:
    """Whether the number of threads is not the job's to choose."""
    return job.hp.deterministic or bool(os.environ.get("OMP_NUM_THREADS"))


def timed(step: TrainStep, batch: list[Sample]) -> float:
    """Seconds that a step needs."""
    start = time.perf_counter()
    losses = step.learn(Batch.of(batch))
    for loss in losses.values():
        float(loss)  # waits for a GPU
    return time.perf_counter() - start


Timer = Callable[[TrainStep, list[Sample]], float]


def calibrate(
    job: JobContext,
    model: VisionModel,
    spec: ModelSpec,
    *,
    train: RecordSource,
    extra_losses: Sequence[ExtraLoss] = (),
    resumed: bool = False,
    timer: Timer = timed,
) -> tuple[JobContext, Compute]:
    """Choose what this process computes with, and set its threads; the log says what was tried.

    Some steps of the job's own model decide, in under five seconds on a CPU that is not too slow. All
    processes try at the same time, as they will train, and the leader's choice holds for all. Nothing is
    tried on a GPU (its precision follows from its kind), under ``deterministic=1``, in a job that goes on
    from a checkpoint (it keeps what it has chosen), or in one that is too short to gain by it.

    Args:
        job: the training job, with a number for its batch size.
        model: on the device to train on; it stays as it is.
        spec: of the model.
        train: what it learns from.
        extra_losses: beside the model's own; they are copied.
        resumed: whether the job goes on from a checkpoint.
        timer: does a step; returns its seconds.

    Returns:
        The job with its ``precision``, and what was chosen.

    """
    hp, fixed = job.hp, threads_are_fixed(job)
    compute = Compute(fixed=fixed)
    device = next(model.parameters()).device
    batch_size = training_batch_size(hp, job.distributed.local_size)
    steps = hp.number_of_epochs * train.expected_images // (batch_size * job.distributed.size)
    may_choose = not hp.deterministic and device.type == "cpu"
    wanted = hp.minutes is not None or (may_choose and steps >= WORTH_IT)
    if resumed or not job.distributed.any(wanted):  # hosts with parts of the data count other steps
        return job, compute
    precisions: list[str] = [hp.precision]
    if hp.precision == "auto" and may_choose:
        precisions = ["fp32", "bf16"][: 1 + has_bf16_instructions()]
    chosen = Setting(precisions[0], compute.threads)
    more_than_one = len(precisions) > 1 or (compute.threads > 1 and not fixed)
    if job.distributed.any(hp.minutes is not None or more_than_one):  # their CPUs may differ, too
        with undisturbed(device):
            view = _typical_view(spec.scaling, train)
            objects = _typical_objects(train)
            trial = Trial(
                job,
                model,
                view,
                smallest_view=find_model(spec.name).smallest_view(min(view)),
                objects=objects,
                timer=timer,
                extra_losses=extra_losses,
            )
            rates, best = trial.run(precisions, compute.threads, fewer=not fixed and device.type == "cpu")
        chosen, compute.pixels_per_second = job.distributed.broadcast((best, rates[best]))
        if device.type == "cpu":
            say_what_was_tried(rates, chosen, trial.pixels)
    if not fixed:
        torch.set_num_threads(chosen.threads)
    compute = replace(compute, threads=chosen.threads)
    environment = {**job.environment, "threads": chosen.threads} if job.environment else job.environment
    return replace(
        job, hp=hp.model_copy(update={"precision": chosen.precision}), environment=environment
    ), compute


def say_what_was_tried(rates: dict[Setting, float], chosen: Setting, view_pixels: float) -> None:
    """Log the settings of a trial in views a second."""
    tried = ", ".join(f"{setting} {_rate(rate / view_pixels)} images/s" for setting, rate in rates.items())
    log.info("calibration: %s: training in %s", tried, chosen)


def _rate(views_per_second: float) -> str:
    return f"{views_per_second:.1f}" if views_per_second >= 1 else f"{views_per_second:.2g}"


class Trial:
    """A few steps of a job on made-up views, with other settings in turn.

    Args:
        job: the training job.
        model: is copied.
        view: (width, height) of a typical view in pixels.
        smallest_view: the shortest side in pixels that the model can take.
        objects: of a typical view.
        timer: does a step; returns its seconds.
        extra_losses: are copied.

    Attributes:
        pixels: of a view at its full size.

    """

    def __init__(
        self,
        job: JobContext,
        model: VisionModel,
        view: tuple[int, int],
        *,
        smallest_view: int,
        objects: int,
        timer: Timer,
        extra_losses: Sequence[ExtraLoss] = (),
    ):
        self.job, self.model, self.timer, self.extra_losses = job, model, timer, extra_losses
        self.batch_size = training_batch_size(job.hp, job.distributed.local_size)
        self.view, self.pixels = view, view[0] * view[1]
        self.smallest_view = smallest_view
        self._make = partial(synthetic_batch, targets=partial(job.task.synthetic_targets, objects))

    def run(
        self, precisions: list[str], threads: int, *, fewer: bool
    ) -> tuple[dict[Setting, float], Setting]:
        """Pixels of views a second by setting, and the best one.

        Args:
            precisions: to try, with all threads.
            threads: that there are.
            fewer: whether to halve them with the best precision, for as long as that is faster.

        """
        steps = {precision: self._steps(precision) for precision in precisions}
        batch, full = self._batch_for(steps[precisions[0]], {threads, 1} if fewer else {threads})
        rates: dict[Setting, float] = {}

        def faster(settings: list[Setting]) -> Setting:
            seconds = race(settings, lambda each: self._seconds(steps[each.precision], each.threads, batch))
            rates.update({setting: pixels_of(batch) / each for setting, each in seconds.items()})
            return max(settings, key=lambda setting: rates[setting])

        best, *others = (Setting(each, threads) for each in precisions)
        if others or not fewer or threads == 1:
            best = faster([best, *others])
        while fewer and best.threads > 1:
            less = Setting(best.precision, best.threads // 2)
            faster([best, less])
            if rates[less] < CLEARLY * rates[best]:
                break
            best = less
        # What a second stage costs does not shrink with the view: a view of full size says how fast that is.
        shrunk = rates.get(Setting(precisions[0], threads))
        if shrunk and math.prod(batch[0].pixels.shape[1:]) < self.pixels:
            rates = {setting: rate * self.pixels / full / shrunk for setting, rate in rates.items()}
        return rates, best

    def _steps(self, precision: str) -> TrainStep:
        hp = self.job.hp.model_copy(
            update={"precision": precision, "gradient_accumulation_step": 1, "compile": False}
        )
        losses = [copy.deepcopy(each) for each in self.extra_losses]
        step = TrainStep(copy.deepcopy(self.model), hp, 1, view_size=self.view, extra_losses=losses)
        step.begin_epoch()
        return step

    def _batch_for(self, step: TrainStep, threads: set[int]) -> tuple[list[Sample], float]:
        """Views for a step of about :data:`STEP_SECONDS`: fewer than the job's, where these take longer.

        Tried on several threads and on one: beside other work several may take ten times as long.

        Returns:
            The views, and the seconds that one of full size takes on the most threads.

        """
        one = self._make(1, self.view)
        self.timer(step, one)  # the first one also sets up what the others use
        tried = {each: self._seconds(step, each, one) for each in threads}
        seconds = min(tried.values())
        # the whole batch, if that takes twice as long at most: fewer views are slower by the view
        whole = self.batch_size * seconds <= 2 * STEP_SECONDS
        count = self.batch_size if whole else max(1, min(self.batch_size, round(STEP_SECONDS / seconds)))
        shrink = max(1.0, (seconds / (2 * STEP_SECONDS)) ** 0.5)
        return self._make(count, self._shrunk(shrink)), tried[max(threads)]

    def _shrunk(self, shrink: float) -> tuple[int, int]:
        """The view about so many times smaller, as far as the model can take it: in whole patches of it."""
        if shrink == 1.0:
            return self.view
        width, height = (
            min(side, max(self.smallest_view, round(side / shrink / PATCH) * PATCH)) for side in self.view
        )
        return width, height

    def _seconds(self, step: TrainStep, threads: int, batch: list[Sample]) -> float:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return self.timer(step, batch)


def race(settings: Sequence[Setting], seconds: Callable[[Setting], float]) -> dict[Setting, float]:
    """The seconds of a step in each setting: the least of some, which the settings take in turns.

    So what disturbs this machine for a while meets all of them, and single slow steps decide nothing: a
    setting that is slow beside other work is so in all of its steps. The first, which finds cold caches, does
    not count.

    Args:
        settings: to try.
        seconds: does a step in a setting.

    """
    found: dict[Setting, list[float]] = {setting: [] for setting in settings}
    total = 0.0
    for number in range(1 + MOST_ROUNDS):
        for setting in settings if number % 2 else settings[::-1]:
            found[setting].append(seconds(setting))
            total += found[setting][-1]
        if total > (RACE_SECONDS if number >= LEAST_ROUNDS else LONGEST_RACE):
            break
    return {setting: min(times[1:] or times) for setting, times in found.items()}


def pixels_of(batch: Sequence[Sample]) -> int:
    """Of all views."""
    return sum(math.prod(sample.pixels.shape[1:]) for sample in batch)


def _typical_view(scaling: Scaling, train: RecordSource) -> tuple[int, int]:
    """Of the median image; views of tiles have the same scaling."""
    sizes = sorted(train.sample.sizes.tolist(), key=math.prod)
    width, height = sizes[len(sizes) // 2] if sizes else (4, 3)
    return scaling.size_of(width, height)


def _typical_objects(train: RecordSource) -> int:
    counts = train.sample.object_counts
    return max(1, round(float(counts.mean()))) if len(counts) else 1
