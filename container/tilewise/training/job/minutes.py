"""``minutes``: as many epochs as fit into a time, by the speed that was measured at the start."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tilewise.data.records import Records
from tilewise.data.source import RecordSource
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.spec import ModelSpec
from tilewise.tiling.spec import LEAST_SHOWN
from tilewise.training.dataloading.epoch_loader import EpochLoader
from tilewise.training.dataloading.view_sampler import ViewPlanner
from tilewise.training.history import History
from tilewise.training.job.context import JobContext
from tilewise.training.job.view_plans import plain_epochs
from tilewise.training.step.lr_scheduler import LRScheduler

log = logging.getLogger(__name__)

LOADING = 1.05
"""A training's time by that of its steps alone (benchmarks/models.py: efficiency)."""

VALIDATION = 0.4
"""What a view costs in validation, by what it costs in training: a forward pass, and its detections."""

VALIDATIONS = 5
"""At most so many, where ``evaluation_frequency`` is not given."""

WARM_UP = 1 / 12
"""Of the epochs, where ``warmup_cosine_lr_warmup_epochs`` is not given."""

MOST = 0.95
"""Of the time: whole epochs that use less of it are cut, and one more fits."""

ENOUGH_OBJECTS, ENOUGH_EPOCHS = 25_000, (8, 50)
"""Where not so many objects would be seen, in epochs within these bounds, larger tiles may show objects
smaller."""

LEARNING = 0.5
"""Of the time that a job learns for at least."""

LEAST_SHARE = 0.4
"""Of an epoch's batches, where there is more than one."""


def refuse_pipe(hp: Hyperparameters, train: RecordSource) -> None:
    """Epochs are planned by the images that there are.

    Raises:
        UserError: they come through a pipe.

    """
    if hp.minutes is not None and not train.known_length:
        raise UserError(
            f"minutes={hp.minutes:g} plans epochs by the number of images, which is not known of a pipe: "
            f"give {hp.spelling('number_of_epochs')} instead, or use input mode File or FastFile"
        )


@dataclass(frozen=True)
class Plan:
    """How long a training is.

    Attributes:
        epochs: so many.
        share: of its batches that each epoch has.
        every: epochs between validations.

    """

    epochs: int
    share: float
    every: int

    @property
    def length(self) -> float:
        """In whole epochs."""
        return self.epochs * self.share


@dataclass(frozen=True)
class Work:
    """What an epoch and a validation are, and how long they take.

    Attributes:
        train_pixels: of the views of an epoch, of all processes.
        validation_pixels: of those of a validation; 0 without one.

    """

    train_pixels: int
    validation_pixels: int

    def seconds(self, pixels_per_second: float) -> tuple[float, float]:
        """Of an epoch and of a validation, where so many pixels of views are learnt from in a second."""
        return self.train_pixels / pixels_per_second, VALIDATION * self.validation_pixels / pixels_per_second


def fit(seconds: float, epoch: float, validation: float, *, every: int | None = None, done: int = 0) -> Plan:
    """What fits into a time.

    Whole epochs, if they use most of it; else the epochs are cut, so that they use all of it.

    Args:
        seconds: that there are.
        epoch: seconds of a whole one.
        validation: seconds.
        every: epochs between validations; None for :data:`VALIDATIONS` of them.
        done: epochs before, which only count for what most of the time is.

    """
    given = every is not None
    if every is None:
        room = (seconds - VALIDATIONS * validation) / epoch
        every = max(1, -(-int(room) // VALIDATIONS))
        if room < VALIDATIONS:
            room = seconds / (epoch + validation)
    else:
        room = seconds / (epoch + validation / every)
    whole = max(0, int(room))
    if whole and done + whole >= MOST * (done + room):
        return Plan(whole, 1.0, every)
    cut = whole + 1
    if not given:
        every = -(-cut // VALIDATIONS)
    share = min(1.0, (seconds - -(-cut // every) * validation) / (cut * epoch))
    if not whole:  # where a validation takes most of the time, the job takes longer
        share = max(share, min(1.0, LEARNING * seconds / epoch))
    if whole and share < LEAST_SHARE:
        return Plan(whole, 1.0, every)
    return Plan(cut, share, every)


def with_larger_tiles(
    hp: Hyperparameters, work: Work, *, objects: int, shown: float, resolves: float, pixels_per_second: float
) -> Hyperparameters:
    """With a smaller ``smallest_object``, where too few objects would be seen; the log says so.

    The finer the tiles, the fewer objects a second of training shows. Objects a little too small, seen often
    enough, are learnt better than large ones seen twice (benchmarks/README.md, "Tiles by the minutes").

    Args:
        hp: of a job with ``minutes`` whose tiles are chosen from its data.
        work: with the tiles that are chosen for what the model resolves.
        objects: of the training data.
        shown: the size, in pixels of a view, from which on these tiles show three quarters of the objects;
            those of scenes show no more than :data:`LEAST_SHOWN` of what the model resolves, and stay.
        resolves: what the model does.
        pixels_per_second: of the views that all processes learn from in their steps alone.

    """
    assert hp.minutes is not None
    epoch, validation = work.seconds(pixels_per_second / LOADING)
    epochs = fit(60 * hp.minutes, epoch, validation, every=_given_frequency(hp)).length
    enough = float(np.clip(ENOUGH_OBJECTS / max(1, objects), *ENOUGH_EPOCHS))
    if epochs >= enough or shown < 1.1 * LEAST_SHOWN * resolves:
        return hp
    size = round(shown * max(LEAST_SHOWN, math.sqrt(epochs / enough)), 1)
    log.info(
        "minutes=%g holds %.1f epochs of tiles that show three quarters of the objects from %.3g px on: "
        "larger tiles, with smallest_object=%g, leave time for more, up to the %.0f that %d objects take",
        hp.minutes,
        epochs,
        shown,
        size,
        enough,
        objects,
    )
    return hp.model_copy(update={"smallest_object": size})


def _given_frequency(hp: Hyperparameters) -> int | None:
    return hp.evaluation_frequency if "evaluation_frequency" in hp.given else None


def plan_epochs(job: JobContext, work: Work, *, pixels_per_second: float) -> tuple[JobContext, float]:
    """The job with the number of epochs that its ``minutes`` hold; the log says which.

    Args:
        job: the training job.
        work: of an epoch.
        pixels_per_second: of the views that one process learns from in its steps alone.

    Returns:
        The job, and the share of an epoch's batches that its epochs have.

    """
    hp = job.hp
    if hp.minutes is None:
        return job, 1.0
    epoch, validation = work.seconds(pixels_per_second * job.distributed.size / LOADING)
    plan = fit(60 * hp.minutes, epoch, validation, every=_given_frequency(hp))
    hp = with_plan(hp, plan)
    log.info("minutes=%g: %s, some %.1f minutes", hp.minutes, said(plan), minutes_of(plan, epoch, validation))
    if plan.length < 1:
        log.warning(
            "minutes=%g holds no whole epoch, and not all images are learnt from: give more minutes, a "
            "faster instance, or fewer images (tilewise convert --max-images)",
            hp.minutes,
        )
    return replace(job, hp=hp), plan.share


def with_plan(hp: Hyperparameters, plan: Plan) -> Hyperparameters:
    """The hyperparameters of a plan, but for those that the user gave."""
    epochs = plan.epochs
    planned = {
        "number_of_epochs": epochs,
        "evaluation_frequency": -(-epochs // VALIDATIONS),
        # of one to three epochs a whole one would be too much: the rate would hardly fall
        "warmup_cosine_lr_warmup_epochs": max(int(epochs >= 4), round(epochs * WARM_UP)),
    }
    return hp.model_copy(update={name: value for name, value in planned.items() if name not in hp.given})


def said(plan: Plan) -> str:
    """For the log."""
    cut = f" with {100 * plan.share:.0f} % of the batches" if plan.share < 1 else ""
    return f"number_of_epochs={plan.epochs}{cut}"


def minutes_of(plan: Plan, epoch: float, validation: float) -> float:
    """That a plan takes, by the seconds of an epoch and of a validation."""
    return (plan.length * epoch + -(-plan.epochs // plan.every) * validation) / 60


class Pace:
    """Plans the rest of a job of so many ``minutes`` anew, by how fast its steps really are.

    What the trial measured holds for a moment, and other work may come or go. So after 16 steps, and each
    time when there are 16 and an eighth more, the leader looks at the steps since it looked last. All
    processes look after the same step. In the second half of the time a job is only made shorter: the
    learning rate, which has fallen, would rise again. A job that was resumed keeps its plan, as it may be on
    another machine.

    Args:
        job: the training job; its hyperparameters are replaced.
        loader: of its batches; its epochs are cut.
        scheduler: of its learning rate.
        history: of the epochs.
        work: of an epoch; None for a job whose plan stays.
        clock: seconds.

    """

    COLD, FIRST = 4, 16
    """The first steps, which do not count, and those before the first look."""
    WRONG = 0.1
    """A plan stays unless it is too long, or a longer one fits, by more than such a share of all."""

    def __init__(
        self,
        job: JobContext,
        loader: EpochLoader,
        scheduler: LRScheduler,
        *,
        history: History,
        work: Work | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.job, self.loader, self.scheduler, self.history, self.work = job, loader, scheduler, history, work
        self._clock = clock
        self._start = self._last = clock()
        self._steps, self._next, self._pixels, self._seconds = 0, self.FIRST, 0, 0.0

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"share": self.loader.share}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """The inverse of :meth:`state_dict`; a run that goes on with a number of epochs has whole ones."""
        self.loader.share = state["share"] if self.job.hp.minutes is not None else 1.0

    def begin_epoch(self) -> None:
        """To be called before an epoch's first batch is asked for."""
        self._last = self._clock()

    def step(self, pixels: int) -> None:
        """To be called after each step, of views of so many pixels; it may plan anew."""
        if self.work is None:
            return
        now = self._clock()
        self._steps += 1
        too_early = self._steps < self.FIRST and self._ends_here()
        if self._steps > self.COLD or too_early:
            self._pixels += pixels
            self._seconds += now - self._last
        self._last = now
        if self._steps == self._next or too_early:
            self._look(self.work, now - self._start)
            self._next = self._steps + max(self.FIRST, self._steps // 8)
            self._pixels, self._seconds = 0, 0.0

    def _ends_here(self) -> bool:
        """Whether this is the last step of a job: where it has hardly begun, the trial was too slow."""
        progress = self.history.progress
        last_epoch = progress.epoch + 1 == self.job.hp.number_of_epochs
        return last_epoch and progress.batches == self.loader.known_batches

    def _look(self, work: Work, elapsed: float) -> None:
        job, loader = self.job, self.loader
        speed = max(1, self._pixels) * job.distributed.size / max(1e-9, self._seconds)
        plan = job.distributed.broadcast(self._plan(work, speed, elapsed))
        if plan is None:
            return
        job.hp = with_plan(job.hp, plan)
        loader.plan(plan.share, plain_from=job.hp.number_of_epochs - plain_epochs(job.hp))
        batches = loader.known_batches
        assert batches is not None
        self.scheduler.plan(job.hp, -(-batches // job.hp.gradient_accumulation_step))
        log.info(
            "minutes=%g: after %.1f minutes %s, by the steps so far", job.hp.minutes, elapsed / 60, said(plan)
        )

    def _plan(self, work: Work, speed: float, elapsed: float) -> Plan | None:
        """Another plan of the job from the present epoch on; None where the one that there is will do."""
        hp, progress = self.job.hp, self.history.progress
        assert hp.minutes is not None
        epoch, validation = work.seconds(speed)
        measured = [
            each["validation_seconds"] for each in self.history.epochs if "validation_seconds" in each
        ]
        validation = measured[-1] if measured else validation
        seconds, every, done = 60 * hp.minutes, hp.evaluation_frequency, progress.epoch
        left = seconds - elapsed + progress.pixels * self.job.distributed.size / speed  # as if it began now
        present = Plan(hp.number_of_epochs - done, self.loader.share, every)
        rest = fit(left, epoch, validation, every=every, done=done)
        too_long = 60 * minutes_of(present, epoch, validation) > left + self.WRONG * seconds
        too_short = rest.length > present.length + self.WRONG * (done + present.length)
        if (too_long and rest.length < present.length) or (too_short and elapsed < seconds / 2):
            return replace(rest, epochs=done + rest.epochs)
        return None


def pixels_of_views(records: Records, spec: ModelSpec, planner: ViewPlanner | None, *, seed: int) -> int:
    """The pixels of the views of these images that an epoch has, by the job's own plan.

    Args:
        records: of the training data.
        spec: of the model.
        planner: plans the views; None for whole images.
        seed: of the job.

    """
    if planner is None:
        sizes = [spec.scaling.size_of(*size) for size in records.sizes.tolist()]
    else:
        drawn = planner.draw(records, np.random.default_rng((seed, 0)))
        sizes = [view.size for views in drawn for view in views]
    return sum(width * height for width, height in sizes)
