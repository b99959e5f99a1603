"""Train a detector: one plain loop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

from tilewise.data.channel import DataSet
from tilewise.errors import UserError
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.evaluate import evaluate
from tilewise.hyperparameters import Hyperparameters
from tilewise.hyperparameters.values import AUTO_BATCH
from tilewise.inference.artifact import Artifact
from tilewise.inference.device import tune_device
from tilewise.inference.predictor import Predictor
from tilewise.inference.torch_backend import TorchBackend
from tilewise.inference.view_plan import ViewPlan
from tilewise.models.build import build_detector
from tilewise.models.detector import Detector
from tilewise.models.freezing import freeze
from tilewise.models.pretrained import load_pretrained
from tilewise.models.spec import DetectorSpec
from tilewise.registry import family_of
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.loader import default_workers, make_loader, read_batch
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.training.job.batch_size import batch_sizes, with_batch_size
from tilewise.training.job.choose_tiling import make_planner, size_factors
from tilewise.training.job.cpu import tune_cpu
from tilewise.training.job.deterministic import be_deterministic
from tilewise.training.job.early_stopping import BestScore
from tilewise.training.job.false_positives import find_false_positives
from tilewise.training.job.fit_spec import fit_spec
from tilewise.training.job.initial_model import check_initial, go_on_from
from tilewise.training.job.metric_lines import MetricLines
from tilewise.training.job.validation import gather
from tilewise.training.step.loss_means import LossMeans, means_of
from tilewise.training.step.train_step import TrainStep
from tilewise.training.train_state import (
    Progress,
    agreed_spec,
    restore,
    say_where,
    snapshot,
    with_batch_size_of,
)

log = logging.getLogger(__name__)


@dataclass
class TrainResult:
    """What a run leaves beside the model: the figures of its weights, of each epoch, of the test.

    ``scored`` is what the saved model found in the validation images; ``hp`` the job's hyperparameters with a
    number for every ``auto`` that the job found out.
    """

    best: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    test: dict[str, Any] | None = None
    scored: Scored | None = None
    hp: Hyperparameters | None = None


def train(
    data: DataSet,
    hp: Hyperparameters,
    model_dir: Path,
    lines: MetricLines,
    should_stop: Callable[[], bool] = lambda: False,
    pretrained: Path | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
    initial: Artifact | None = None,
    checkpoints: Checkpoints | None = None,
    state: dict[str, Any] | None = None,
    environment: Mapping[str, Any] = MappingProxyType({}),
) -> TrainResult:
    """Train a detector on ``data`` and leave the best one in ``model_dir``, written anew at each improvement.

    Args:
        data: records and classes.
        hp: the job's hyperparameters.
        model_dir: an artifact is kept there; see :class:`Artifact`.
        lines: prints the metrics.
        should_stop: asked after each step; when it says so, the best model so far is left, or the present one
            where none has been validated.
        pretrained: the folder of the channel of that name, where there is one.
        distributed: the processes that train together; all but the leader return figures only.
        initial: a model of the same architecture and classes to go on from, instead of pretrained weights.
        checkpoints: where the state of the run is kept, so that it can be resumed.
        state: of a run of the same job to resume, from there; it is emptied.
        environment: what the job runs on, for ``model.json``.

    Raises:
        UserError: images are damaged, the loss is not finite any more, or pretrained weights, the initial
            model or the state do not fit.

    """
    if not data.train.supports_random_access and hp.negative_views == "false_alarms":
        raise UserError(
            "negative_views=false_alarms looks at the training images once more, and those of a pipe do not "
            "come when they are asked for: use input mode File or FastFile, or negative_views=background"
        )
    torch.manual_seed(hp.seed)
    tune_device()
    tune_cpu(distributed.local_size)
    if hp.deterministic:
        be_deterministic()
    device = (
        torch.device("cuda", distributed.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    )
    if state and hp.training_batch_size == AUTO_BATCH:
        hp = with_batch_size_of(state, hp)
    spec = agreed_spec(state, hp, data.classes) if state else None
    if spec is None:
        own = fit_spec(hp, data, initial.spec if initial else None) if distributed.is_main_process else None
        spec = distributed.broadcast(own)
        assert spec is not None
        if initial:
            check_initial(initial, spec, data.classes)
    detector = build_detector(spec)
    if initial and not state:
        go_on_from(detector, initial)
    elif hp.use_pretrained_model and not state:
        log.info(load_pretrained(detector, spec.name, pretrained))
    if hp.layers_to_freeze or hp.freeze_layer_pattern:
        log.info(freeze(detector, spec.name, hp.layers_to_freeze, hp.freeze_layer_pattern))
    detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    hp = with_batch_size(hp, detector, spec, data.train, distributed)
    # The fastest convolutions are looked for once for each size of views: only where there is one size.
    torch.backends.cudnn.benchmark = not hp.deterministic and bool(spec.scaling.square) and not hp.multi_scale
    torch.manual_seed(hp.seed + distributed.rank)  # what is drawn in a step is of this process's images
    run = Trainer(data, hp, spec, detector, model_dir, lines, should_stop, distributed)
    run.environment, run.checkpoints = environment, checkpoints
    run.keeps_checkpoints = distributed.any(checkpoints is not None)
    if state:
        say_where(state, hp, checkpoints.name if checkpoints else "a checkpoint")
        restore(run, state)
        run.resumed = True
    return run.epochs()


class Trainer:
    """The state of one training run."""

    def __init__(
        self,
        data: DataSet,
        hp: Hyperparameters,
        spec: DetectorSpec,
        detector: Detector,
        model_dir: Path,
        lines: MetricLines,
        should_stop: Callable[[], bool],
        distributed: DistributedContext,
    ):
        self.data, self.hp, self.spec, self.detector = data, hp, spec, detector
        self.model_dir, self.lines, self.should_stop, self.distributed = (
            model_dir,
            lines,
            should_stop,
            distributed,
        )
        workers = default_workers(distributed.local_size) if hp.num_workers is None else hp.num_workers
        self.batch_size, self.validation_batch_size = batch_sizes(hp, distributed.local_size)
        self.planner = make_planner(hp, spec)
        self.loader = make_loader(
            data.train,
            spec.scaling,
            self.batch_size,
            workers,
            hp.seed,
            hp.min_box_visibility,
            self.planner,
            size_factors(hp, spec),
            distributed,
            pinned=next(detector.parameters()).device.type == "cuda",
            random_windows=hp.random_windows,
        )
        view_size = spec.scaling.size_of(1, 1)
        self.train_step = TrainStep(detector, hp, self._expected_steps(), view_size, distributed)
        dtype, reason = self.train_step.precision
        log.info("training in %s: %s", str(dtype).removeprefix("torch."), reason)
        patience = hp.early_stopping_patience if hp.early_stopping else None
        self.best = BestScore(patience, hp.early_stopping_delay, hp.early_stopping_tolerance)
        self.trained = TrainResult(hp=hp)
        self.progress = Progress()
        self._prefetched: Iterator[Batch | bytes] | None = None  # batches of the next epoch
        self.saved = self.resumed = False
        self.keeps_checkpoints = False
        self.checkpoints: Checkpoints | None = None
        self.environment: Mapping[str, Any] = {}

    def epochs(self) -> TrainResult:
        """Train the epochs that are left; returns what they gave."""
        hp = self.hp
        for epoch in range(self.progress.epoch, hp.number_of_epochs):
            if self.best.should_stop(epoch):
                log.info(
                    "no improvement in %d validations: stopping early after epoch %d",
                    self.best.waited,
                    epoch - 1,
                )
                break
            self._epoch(epoch)
            if self.trained.stopped:
                self._checkpoint()
                break
            self.lines.progress(epoch + 1, hp.number_of_epochs)
            every = hp.checkpoint_frequency or 1
            last = epoch + 1 == hp.number_of_epochs or self.best.should_stop(epoch + 1)
            if last or (epoch + 1) % every == 0:
                self._checkpoint()
        if not self.saved:
            self._save(len(self.trained.epochs), {})
        elif self.resumed and not self.trained.stopped:
            self._score_saved()
        return self.trained

    def _epoch(self, epoch: int) -> None:
        """An epoch, or the rest of one that was interrupted."""
        learns = not self.progress.trained
        if learns:
            if not self.progress.batches and not self._find_false_positives(epoch):
                self.trained.stopped = True
                return
            self.trained.epochs.append(self._train_epoch(epoch))
        self.trained.stopped = self._stopping()
        if not self.trained.stopped:
            if learns:
                self.data.train.finish_pass()
            self._load_ahead(epoch + 1)
            if self._validate(epoch, self.trained.epochs[-1]):
                self.progress = Progress(epoch + 1)
            self.trained.stopped = self._stopping()

    def _checkpoint(self) -> None:
        if self.keeps_checkpoints:
            state = snapshot(self)
            if self.checkpoints and state:
                self.checkpoints.save(state)

    def _stopping(self) -> bool:
        """Whether any process has been asked to stop: all of them then stop after the same step."""
        return self.distributed.any(self.should_stop())

    def _expected_steps(self) -> int:
        """The optimizer's steps in an epoch; of a pipe, as far as the job says how many images it brings."""
        train = self.data.train
        if train.known_length:
            batches = len(self.loader)
        else:
            batches = -(-train.expected_images // (self.batch_size * self.distributed.size))
        return -(-batches // self.hp.gradient_accumulation_step)

    def _load(self, epoch: int, start: int = 0) -> Iterator[Batch | bytes]:
        """The batches of an epoch, from one on; loader processes begin with them at once."""
        assert self.loader.batch_sampler is not None
        self.loader.batch_sampler.epoch = epoch  # type: ignore[attr-defined]
        self.loader.batch_sampler.start = start  # type: ignore[attr-defined]
        return iter(self.loader)

    def _load_ahead(self, epoch: int) -> None:
        """Let loader processes begin with an epoch while the model is validated, if its views are known."""
        known = self.data.train.supports_random_access and not self._looks_for_false_positives(epoch)
        self._prefetched = self._load(epoch) if known and epoch < self.hp.number_of_epochs else None

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        done = self.progress
        self.train_step.begin_epoch(done.batches)
        batches = self._load(epoch, done.batches) if self._prefetched is None else self._prefetched
        self._prefetched = None
        start = time.monotonic() - done.seconds
        losses = LossMeans(done.losses, done.learnt)
        silent = not (self.distributed.is_main_process and sys.stderr.isatty())
        total = len(self.loader) if self.data.train.known_length else None
        for sent in tqdm(batches, f"epoch {epoch}", total, unit="batch", leave=False, disable=silent):
            if self._pipe_ended_early():
                break
            batch = read_batch(sent)
            self._leave_out_damaged(batch)
            done.batches += 1
            losses.add(self.train_step.learn(batch))
            done.records += len(batch)
            done.pixels += batch.area
            self.lines.batches(epoch, done.batches, done.records, time.monotonic() - start)
            if self._stopping():
                break
        else:
            if not self._pipe_ended_early():
                self.train_step.end_epoch()
                done.trained = True
        done.losses, done.learnt = losses.totals()  # waits for a GPU: the seconds are those of all its work
        done.seconds = time.monotonic() - start
        parts = self.distributed.gather(done)
        means = means_of([(part.losses, part.learnt) for part in parts])
        records, pixels = sum(part.records for part in parts), sum(part.pixels for part in parts)
        if means:
            asks_what = family_of(self.spec.name).classification_losses
            what = sum(value for name, value in means.items() if name in asks_what)
            self.lines.losses(epoch, done.batches, what, sum(means.values()) - what)
        self.lines.throughput(records / done.seconds)
        return {
            "epoch": epoch,
            "losses": means,
            "records": records,
            "pixels": pixels,
            "seconds": round(done.seconds, 3),
            "learning_rate": self.train_step.learning_rate,
        }

    def _pipe_ended_early(self) -> bool:
        """Whether what comes from a pipe may be no whole epoch any more: it ends when the job is to stop."""
        return not self.data.train.known_length and self._stopping()

    def _find_false_positives(self, epoch: int) -> bool:
        """After a third of the epochs look where the model is wrong, if negative chips come from there.

        Returns:
            Whether to go on; not when a request to stop came before all images were looked at.

        """
        if not self._looks_for_false_positives(epoch):
            return True
        train = self.data.train
        assert self.planner and train.supports_random_access
        false_positives = find_false_positives(
            self._predictor(), train.sample, train.issues, self.hp.seed, self.should_stop
        )
        if self._stopping():
            return False
        self.planner.false_positives = false_positives
        return True

    def _looks_for_false_positives(self, epoch: int) -> bool:
        hp = self.hp
        if not self.planner or self.planner.views != "sniper":  # whole images show the objects well enough
            return False
        return hp.negative_views == "false_alarms" and epoch == max(1, hp.number_of_epochs // 3)

    def _predictor(self) -> Predictor:
        backend = TorchBackend(self.train_step.evaluated, self.validation_batch_size)
        return Predictor(backend, ViewPlan(self.spec.scaling, self.spec.tiling), self.data.classes)

    def _leave_out_damaged(self, batch: Batch) -> None:
        for key, reason in batch.damaged:
            self.data.train.issues.leave_out(key, reason)

    def _validate(self, epoch: int, facts: dict[str, Any]) -> bool:
        """Score the model where it is due, and keep it if it is the best; returns whether that is done."""
        hp, validation = self.hp, self.data.validation
        final = epoch + 1 == hp.number_of_epochs
        if validation is None or hp.validation_metric_type == "none":
            if final:
                self._save(epoch, {})
            return True
        if not final and (epoch + 1) % hp.evaluation_frequency:
            return True
        start = time.monotonic()
        self.distributed.broadcast_buffers(self.train_step.evaluated)
        scored: list[Scored] = []
        metrics = evaluate(
            self._predictor(),
            validation.part(),
            validation.issues,
            hp.validation_iou_threshold,
            self.should_stop,
            scored.append,
            partial(gather, self.distributed, validation.issues),
        )
        metrics = self.distributed.broadcast(metrics)
        if metrics is None:
            return False
        validation.finish_pass()
        score = (metrics["AP"] or 0.0) if hp.validation_metric_type == "coco" else metrics["VOC"]["mAP"]
        facts |= {"validation": metrics, "validation_seconds": round(time.monotonic() - start, 3)}
        self.lines.validation(epoch, score, metrics)
        if self.best.update(score):
            self.lines.best(score)
            self.trained.best = metrics
            self.trained.scored = scored[0] if scored else None
            self._save(epoch, {"epoch": epoch, **metrics})
        return True

    def _score_saved(self) -> None:
        """Find what the report shows, where the model that was kept is older than the resumed part."""
        validation = self.data.validation
        if self.trained.scored or not self.trained.best or not self.distributed.is_main_process:
            return
        if validation is None or not validation.supports_random_access:
            return
        log.info("the best model is of an epoch before the interruption: it is scored again for the report")
        predictor = Predictor.load(self.model_dir, batch_size=self.hp.validation_batch_size)
        scored: list[Scored] = []
        facts = validation.issues, self.hp.validation_iou_threshold
        evaluate(predictor, validation.one_pass(), *facts, self.should_stop, scored.append)
        self.trained.scored = scored[0] if scored else None

    def _save(self, epoch: int, metrics: dict[str, Any]) -> None:
        self.saved = True
        if self.distributed.is_main_process:
            hyperparameters = self.hp.model_dump(mode="json")
            facts = hyperparameters, metrics, self.environment
            artifact = Artifact(self.train_step.evaluated, self.spec, self.data.classes, *facts)
            artifact.save(self.model_dir, f"model-{epoch:04d}")
