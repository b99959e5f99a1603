"""The loop of a training; :func:`tilewise.training.train.train` puts its parts together."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from tilewise.machine import forget_garbage
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.epoch_loader import EpochLoader
from tilewise.training.history import History, Progress, TrainResult
from tilewise.training.job.best_model import BestModel
from tilewise.training.job.context import FROM_SCRATCH, JobContext
from tilewise.training.job.false_positives import FalsePositives
from tilewise.training.job.minutes import Pace
from tilewise.training.job.normalisation import NormalisationStatistics
from tilewise.training.job.thread_tuner import ThreadTuner
from tilewise.training.job.validation import Validator
from tilewise.training.step.loss_means import LossMeans, means_of
from tilewise.training.step.train_step import TrainStep
from tilewise.training.train_state import Checkpointer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trainer:
    """Trains a model epoch by epoch, validates it, keeps the best, and can be interrupted after each step."""

    job: JobContext

    # what learns, and from what
    loader: EpochLoader
    false_positives: FalsePositives
    train_step: TrainStep
    threads: ThreadTuner
    pace: Pace

    # which model is kept
    normalisation: NormalisationStatistics
    validator: Validator
    best: BestModel

    # how far it is, for whoever goes on from there
    progress: Progress
    history: History
    checkpointer: Checkpointer

    def run(self) -> TrainResult:
        """Train the epochs that are left; returns what all of them gave."""
        best, stopped = self.best, False
        forget_garbage()
        self.job.tracking.begin(self.job.hp, self.job.task, self.history.epochs)
        while (epoch := self.progress.epoch) < self.job.hp.number_of_epochs:
            if best.score.should_stop(epoch):
                waited = best.score.waited
                log.info("no improvement in %d validations: stopping early after epoch %d", waited, epoch - 1)
                break
            stopped = not self._epoch(epoch)
            if stopped:
                self.checkpointer.save()
                break
            epochs = self.job.hp.number_of_epochs
            self.job.lines.progress(epoch + 1, epochs)
            last = epoch + 1 == epochs or best.score.should_stop(epoch + 1)
            if last or self.checkpointer.due(epoch + 1):
                self.checkpointer.save()
        scored = best.scored
        if not best.saved:
            best.save(len(self.history.epochs), {})
        elif best.metrics and not scored and not stopped and self.job.distributed.is_main_process:
            scored = self.validator.score_again()
        best.finish()
        best.warn_of_nothing_learnt()
        return TrainResult(
            best.metrics,
            self.history.epochs,
            stopped,
            scored=scored,
            hp=self.job.hp,
            from_scratch=self.job.environment.get(FROM_SCRATCH, ""),
        )

    def _epoch(self, epoch: int) -> bool:
        """An epoch, or the rest of one that was interrupted; returns whether the job goes on."""
        learns = not self.progress.trained
        if learns:
            looks = not self.progress.batches and self.false_positives.due(epoch)
            if looks and not self.false_positives.look():
                return False
            self.history.epochs.append(self.train_epoch(epoch))
            self.job.tracking.trained(self.history.epochs[-1])
        if self.job.stopping():
            return False
        if learns:
            self.loader.source.finish_pass()
        if epoch + 1 < self.job.hp.number_of_epochs and not self.false_positives.due(epoch + 1):
            self.loader.prefetch(epoch + 1)  # while the model is validated
        if self._validate(epoch):
            self.progress.next_epoch()
            self.normalisation.forget()
        return not self.job.stopping()

    def train_epoch(self, epoch: int) -> dict[str, Any]:
        """Learn from the batches of an epoch that are left; returns its figures."""
        done, lines = self.progress, self.job.lines
        self.train_step.begin_epoch(done.batches)
        self.train_step.model.watch(on=epoch == 0)
        self.pace.begin_epoch()
        batches = self.loader.batches(epoch, done.batches)
        start = time.monotonic() - done.seconds
        losses = LossMeans(done.losses, done.learnt)
        for sent in self._with_bar(epoch, batches):
            if self._cut_short():
                break
            batch = self.loader.read(sent)
            done.batches += 1
            with self.threads.step(batch.area):
                losses.add(self.train_step.learn(batch))
            self.normalisation.keep(batch, epoch, done.batches)
            done.records += len(batch)
            done.pixels += batch.area
            lines.batches(epoch, done.batches, done.records, seconds=time.monotonic() - start)
            self.pace.step(batch.area)
            if self.job.stopping():
                break
        else:
            if not self._cut_short():
                self.train_step.end_epoch()
                done.trained = True
        if epoch == 0:
            for line in self.train_step.model.say_what_was_seen(self.job.distributed.gather):
                log.info(line)
        done.losses, done.learnt = losses.totals()  # waits for a GPU: the seconds are those of all its work
        done.seconds = time.monotonic() - start
        return self._figures(epoch)

    def _cut_short(self) -> bool:
        """Whether what comes may be no whole epoch any more: a pipe ends when the job is to stop."""
        return self.loader.known_batches is None and self.job.stopping()

    def _figures(self, epoch: int) -> dict[str, Any]:
        """Those of an epoch, or of what was done of it by all processes; they are logged."""
        done, lines = self.progress, self.job.lines
        parts = self.job.distributed.gather(done)
        means = means_of([(part.losses, part.learnt) for part in parts])
        records, pixels = sum(part.records for part in parts), sum(part.pixels for part in parts)
        if means:
            lines.losses(epoch, done.batches, self.job.task.loss_figures(means, self.best.spec))
        lines.throughput(records / done.seconds)
        scores = {name: means[name] for name in self.train_step.model.figures & means.keys()}
        return {
            "epoch": epoch,
            "losses": {name: value for name, value in means.items() if name not in scores},
            **({"scores": scores} if scores else {}),
            "records": records,
            "pixels": pixels,
            "seconds": round(done.seconds, 3),
            "learning_rate": self.train_step.learning_rate,
        }

    def _validate(self, epoch: int) -> bool:
        """Score the model where it is due, and keep it if it is the best; returns whether that is done."""
        if not self.validator.wanted:
            if epoch + 1 == self.job.hp.number_of_epochs:
                self.normalisation.refresh(self.train_step.evaluated, epoch)
                self.best.save(epoch, {})
            return True
        if not self.validator.due(epoch):
            return True
        start = time.monotonic()
        self.normalisation.refresh(self.train_step.evaluated, epoch)
        metrics_and_scored = self.validator.validate(self.history.epochs[-1])
        if metrics_and_scored is None:
            return False
        self.history.epochs[-1]["validation_seconds"] = round(time.monotonic() - start, 3)
        self.best.offer(epoch, *metrics_and_scored)
        self.job.tracking.validated(self.history.epochs[-1], metrics_and_scored[1], self.best.classes)
        return True

    def _with_bar(self, epoch: int, batches: Iterator[Batch | bytes]) -> Iterable[Batch | bytes]:
        """The batches, with a progress bar where a terminal shows it."""
        no_bar = not (self.job.distributed.is_main_process and sys.stderr.isatty())
        total = self.loader.known_batches
        bar: Iterable[Batch | bytes] = tqdm(
            batches, f"epoch {epoch}", total, unit="batch", leave=False, disable=no_bar
        )
        return bar
