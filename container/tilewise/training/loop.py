"""Train a detector: one plain loop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tilewise.data.annotations import Report
from tilewise.data.channel import DataSet, Split
from tilewise.data.records import Record, Records
from tilewise.data.stream import Stream
from tilewise.errors import UserError
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.evaluate import evaluate
from tilewise.hyperparameters import Hyperparameters
from tilewise.inference.artifact import Artifact
from tilewise.inference.predictor import Predictor
from tilewise.models.build import build_detector
from tilewise.models.detector import CLASSIFICATION_LOSSES, Detector
from tilewise.models.freezing import freeze
from tilewise.models.pretrained import load_pretrained
from tilewise.models.spec import DetectorSpec
from tilewise.training.cpu import tune_cpu
from tilewise.training.early_stopping import BestScore
from tilewise.training.false_alarms import find_false_alarms
from tilewise.training.fit_spec import fit_spec
from tilewise.training.learner import Learner
from tilewise.training.loader import Batch, default_workers, make_loader, read_batch
from tilewise.training.metric_lines import MetricLines
from tilewise.training.tiling import make_planner, size_factors
from tilewise.training.world import ALONE, World
from tilewise.views.sample import Sample

log = logging.getLogger(__name__)


@dataclass
class Trained:
    """What a run leaves beside the model: the figures of its weights, of each epoch, of the test.

    ``scored`` is what the saved model found in the validation images.
    """

    best: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    test: dict[str, Any] | None = None
    scored: Scored | None = None


def train(
    data: DataSet,
    hp: Hyperparameters,
    model_dir: Path,
    lines: MetricLines,
    should_stop: Callable[[], bool] = lambda: False,
    pretrained: Path | None = None,
    world: World = ALONE,
) -> Trained:
    """Train a detector on ``data`` and leave the best one in ``model_dir``, written anew at each improvement.

    Args:
        data: records and classes.
        hp: the job's hyperparameters.
        model_dir: an artifact is kept there; see :class:`Artifact`.
        lines: prints the metrics.
        should_stop: asked after each step; when it says so, the best model so far is left, or the present one
            where none has been validated.
        pretrained: the folder of the channel of that name, where there is one.
        world: the processes that train together; all but the leader return figures only.

    Raises:
        UserError: images are damaged, the loss is not finite any more, or pretrained weights do not fit.

    """
    if isinstance(data.train, Stream) and hp.negative_views == "false_alarms":
        raise UserError(
            "negative_views=false_alarms looks at the training images once more, and those of a pipe do not "
            "come when they are asked for: use input mode File or FastFile, or negative_views=background"
        )
    torch.manual_seed(hp.seed)
    tune_cpu()
    device = torch.device("cuda", world.local_rank) if torch.cuda.is_available() else torch.device("cpu")
    spec = world.from_leader(fit_spec(hp, data) if world.leads else None)
    assert spec is not None
    detector = build_detector(spec)
    if hp.use_pretrained_model:
        log.info(load_pretrained(detector, spec.name, pretrained))
    if hp.layers_to_freeze or hp.freeze_layer_pattern:
        log.info(freeze(detector, spec.name, hp.layers_to_freeze, hp.freeze_layer_pattern))
    detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.manual_seed(hp.seed + world.rank)  # what is drawn in a step is of this process's images
    return _Run(data, hp, spec, detector, model_dir, lines, should_stop, world).epochs()


def batch_sizes(hp: Hyperparameters, processes: int) -> tuple[int, int]:
    """The batch sizes of training and validation for one of the processes of a host.

    ``training_batch_size`` is that of a process, the built-in algorithm's ``mini_batch_size`` that of a host.
    """
    if "training_batch_size" in hp.given or (hp.job == "azure" and "mini_batch_size" not in hp.given):
        return hp.training_batch_size, hp.validation_batch_size
    if hp.training_batch_size % processes:
        whole = -(-hp.training_batch_size // processes) * processes
        log.warning(
            "mini_batch_size=%d is no multiple of the %d GPUs: %d is used",
            hp.training_batch_size,
            processes,
            whole,
        )
    return -(-hp.training_batch_size // processes), -(-hp.validation_batch_size // processes)


class _Run:
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
        world: World,
    ):
        self.data, self.hp, self.spec, self.detector = data, hp, spec, detector
        self.model_dir, self.lines, self.should_stop, self.world = model_dir, lines, should_stop, world
        workers = default_workers(world.local_size) if hp.num_workers is None else hp.num_workers
        self.batch_size, self.validation_batch_size = batch_sizes(hp, world.local_size)
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
            world,
        )
        view_size = spec.scaling.size_of(1, 1)
        self.learner = Learner(detector, hp, self._expected_steps(), view_size, world)
        patience = hp.early_stopping_patience if hp.early_stopping else None
        self.best = BestScore(patience, hp.early_stopping_delay, hp.early_stopping_tolerance)
        self.trained = Trained()
        self.saved = False

    def epochs(self) -> Trained:
        hp = self.hp
        for epoch in range(hp.number_of_epochs):
            self._find_false_alarms(epoch)
            facts = self._train_epoch(epoch)
            self.trained.epochs.append(facts)
            if not self._stopping():
                self.data.train.finish_pass()
                self._validate(epoch, facts)
            if self._stopping():
                self.trained.stopped = True
                break
            self.lines.progress(epoch + 1, hp.number_of_epochs)
            if self.best.should_stop(epoch + 1):
                log.info(
                    "no improvement in %d validations: stopping early after epoch %d", self.best.waited, epoch
                )
                break
        if not self.saved:
            self._save(len(self.trained.epochs), {})
        return self.trained

    def _stopping(self) -> bool:
        """Whether any process has been asked to stop: all of them then stop after the same step."""
        return self.world.any(self.should_stop())

    def _expected_steps(self) -> int:
        """The optimizer's steps in an epoch; of a pipe, as far as the job says how many images it brings."""
        train = self.data.train
        if isinstance(train, Stream):
            batch = self.batch_size * self.world.size
            batches = -(-(train.expected or len(train.sample)) // batch)
        else:
            batches = len(self.loader)
        return -(-batches // self.hp.gradient_accumulation_step)

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        self.learner.begin_epoch()
        assert self.loader.batch_sampler is not None
        self.loader.batch_sampler.epoch = epoch  # type: ignore[attr-defined]
        sums: dict[str, float] = {}
        records = pixels = batches = learnt = 0
        start = time.monotonic()
        silent = not (self.world.leads and sys.stderr.isatty())
        for batch in tqdm(self.loader, desc=f"epoch {epoch}", unit="batch", leave=False, disable=silent):
            samples = self._usable(read_batch(batch))
            batches += 1
            losses = self.learner.learn(samples)
            learnt += bool(losses)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss)
            records += len(samples)
            pixels += sum(sample.pixels[0].numel() for sample in samples)
            self.lines.batches(epoch, batches, records, time.monotonic() - start)
            if self._stopping():
                break
        else:
            self.learner.end_epoch()
        seconds = time.monotonic() - start
        parts = self.world.gather((sums, (learnt, records, pixels)))
        learnt, records, pixels = map(sum, zip(*(counts for _, counts in parts), strict=True))
        names = dict.fromkeys(name for sums, _ in parts for name in sums)
        means = {name: sum(sums.get(name, 0.0) for sums, _ in parts) / learnt for name in names}
        if means:
            what = sum(value for name, value in means.items() if name in CLASSIFICATION_LOSSES)
            self.lines.losses(epoch, batches, what, sum(means.values()) - what)
        self.lines.throughput(records / seconds)
        return {
            "epoch": epoch,
            "losses": means,
            "records": records,
            "pixels": pixels,
            "seconds": round(seconds, 3),
            "learning_rate": self.learner.learning_rate,
        }

    def _find_false_alarms(self, epoch: int) -> None:
        """After a third of the epochs look where the model is wrong, if negative chips come from there."""
        hp, train = self.hp, self.data.train
        if not self.planner or isinstance(train, Stream):
            return
        if hp.negative_views == "false_alarms" and epoch == max(1, hp.number_of_epochs // 3):
            self.planner.alarms = find_false_alarms(
                self._predictor(), train.records, train.report, hp.seed, self.should_stop
            )

    def _predictor(self) -> Predictor:
        return Predictor(
            self.detector,
            self.spec.scaling,
            self.data.classes,
            self.validation_batch_size,
            self.spec.tiling,
        )

    def _usable(self, batch: Batch) -> list[Sample]:
        samples, damaged = batch
        for key, reason in damaged:
            self.data.train.report.leave_out(key, reason)
        return samples

    def _validate(self, epoch: int, facts: dict[str, Any]) -> None:
        """Score the model where it is due, and keep it if it is the best."""
        hp, validation = self.hp, self.data.validation
        final = epoch + 1 == hp.number_of_epochs
        if validation is None or hp.validation_metric_type == "none":
            if final:
                self._save(epoch, {})
            return
        if not final and (epoch + 1) % hp.evaluation_frequency:
            return
        start = time.monotonic()
        self.world.share_buffers(self.detector)
        scored: list[Scored] = []
        metrics = evaluate(
            self._predictor(),
            _part(validation),
            validation.report,
            hp.validation_iou_threshold,
            self.should_stop,
            scored.append,
            partial(_gather, self.world, validation.report),
        )
        metrics = self.world.from_leader(metrics)
        if metrics is None:
            return
        validation.finish_pass()
        score = (metrics["AP"] or 0.0) if hp.validation_metric_type == "coco" else metrics["VOC"]["mAP"]
        facts |= {"validation": metrics, "validation_seconds": round(time.monotonic() - start, 3)}
        self.lines.validation(epoch, score, metrics)
        if self.best.update(score):
            self.lines.best(score)
            self.trained.best = metrics
            self.trained.scored = scored[0] if scored else None
            self._save(epoch, {"epoch": epoch, **metrics})

    def _save(self, epoch: int, metrics: dict[str, Any]) -> None:
        self.saved = True
        if self.world.leads:
            hyperparameters = self.hp.model_dump(mode="json")
            artifact = Artifact(self.detector, self.spec, self.data.classes, hyperparameters, metrics)
            artifact.save(self.model_dir, f"model-{epoch:04d}")


def _part(split: Split | Stream) -> Iterable[Record]:
    """The records that this process validates on; a pipe has the host's already."""
    records = split.one_pass()
    return (
        records if isinstance(split, Stream) else islice(records, split.shard.index, None, split.shard.count)
    )


def _gather(world: World, report: Report, scored: Scored | None) -> Scored | None:
    """What all processes have found, in the order of the records, for the leader; None if any was stopped."""
    if world.size == 1:
        return scored
    parts = world.gather((scored, dict(report.left_out)))
    found = [part for part, _ in parts if part is not None]
    if len(found) < len(parts) or not world.leads:
        return None
    for _, left_out in parts:
        for key, reason in left_out.items():
            report.leave_out(key, reason)
    pairs = [zip(part.records, part.detections, strict=True) for part in found]
    merged = [pair for row in zip_longest(*pairs) for pair in row if pair is not None]
    return Scored(Records(record for record, _ in merged), [detections for _, detections in merged])


def test(
    split: Split | Stream, hp: Hyperparameters, model_dir: Path, should_stop: Callable[[], bool]
) -> dict[str, Any] | None:
    """The figures of the saved model on a test channel; None when it was stopped.

    Raises:
        UserError: too many images are damaged.

    """
    predictor = Predictor.load(model_dir)
    predictor.batch_size = hp.validation_batch_size
    return evaluate(predictor, split.one_pass(), split.report, hp.validation_iou_threshold, should_stop)
