"""From a job's data and hyperparameters to a trained model: puts the parts of a :class:`Trainer` together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tilewise.augment.copy_paste import CopyPaste
from tilewise.data.channel import DataSet
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.inference.artifact import Artifact
from tilewise.inference.device import tune_device
from tilewise.inference.predictor import Predictor
from tilewise.inference.torch_backend import TorchBackend
from tilewise.inference.view_plan import ViewPlan
from tilewise.models.detector import VisionModel
from tilewise.models.freezing import freeze
from tilewise.models.pretrained import find_pretrained, load_pretrained
from tilewise.models.spec import ModelSpec
from tilewise.registry import find_model
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.dataloading.copies import copies_per_image
from tilewise.training.dataloading.epoch_loader import EpochLoader
from tilewise.training.dataloading.loader import default_workers
from tilewise.training.dataloading.view_sampler import ViewPlanner
from tilewise.training.history import History, Progress, TrainResult
from tilewise.training.job.augmentation_choices import with_colour_changes, with_random_windows
from tilewise.training.job.batch_size import training_batch_size, validation_batch_size, with_batch_size
from tilewise.training.job.best_model import BestModel
from tilewise.training.job.calibration import Compute, calibrate
from tilewise.training.job.class_balance import balance
from tilewise.training.job.context import FROM_SCRATCH, JobContext
from tilewise.training.job.copy_paste import make_copy_paste
from tilewise.training.job.cpu import tune_cpu
from tilewise.training.job.deterministic import be_deterministic
from tilewise.training.job.false_positives import FalsePositives
from tilewise.training.job.initial_model import check_initial, check_task, go_on_from
from tilewise.training.job.minutes import (
    Pace,
    Work,
    pixels_of_views,
    plan_epochs,
    refuse_pipe,
    with_larger_tiles,
)
from tilewise.training.job.normalisation import NormalisationStatistics
from tilewise.training.job.teachers import make_distillation
from tilewise.training.job.thread_tuner import ThreadTuner
from tilewise.training.job.validation import Validator
from tilewise.training.job.view_plans import load_views, make_planner, shown_from, with_size_factors
from tilewise.training.step.extra_losses import ExtraLoss
from tilewise.training.step.train_step import TrainStep
from tilewise.training.train_state import (
    Checkpointer,
    Stateful,
    TrainState,
    agreed_spec,
    say_where,
    with_choices_of,
)
from tilewise.training.trainer import Trainer

log = logging.getLogger(__name__)

_FREEZE = ("layers_to_freeze", "freeze_layer_pattern")


@dataclass(frozen=True)
class Start:
    """What a training begins with, beside its data.

    Attributes:
        pretrained: the folder of the channel of that name, where there is one.
        initial: a model of the same architecture and classes to go on from, instead of pretrained weights.
        checkpoints: where the state of the training is kept, so that it can be resumed.
        state: of a training of the same job, to go on from there; it is emptied.
        extra_losses: to learn from beside the model's own.
        teachers: trained models to learn from, see :mod:`tilewise.training.step.distillation`.
        continues: whether the job began with a model, which is not read again where it is resumed.

    """

    pretrained: Path | None = None
    initial: Artifact | None = None
    checkpoints: Checkpoints | None = None
    state: dict[str, Any] | None = None
    extra_losses: Sequence[ExtraLoss] = ()
    teachers: Sequence[Artifact] = ()
    continues: bool = False


def train(data: DataSet, job: JobContext, start: Start | None = None) -> TrainResult:
    """Train a model on ``data`` and leave the best one in the job's folder, replaced at each improvement.

    A request to stop leaves the best model so far, or the present one where none has been validated. All
    processes but the leader return figures only.

    Raises:
        UserError: images are damaged, the loss is not finite any more, or pretrained weights, the initial
            model or the state do not fit.

    """
    return make_trainer(data, job, start).run()


def make_trainer(data: DataSet, job: JobContext, start: Start | None = None) -> Trainer:
    """All parts of a training, ready to run; see :func:`train`."""
    start = start or Start()
    if not data.train.supports_random_access and job.hp.negative_views == "false_alarms":
        raise UserError(
            "negative_views=false_alarms looks at the training images once more, and those of a pipe do not "
            "come when they are asked for: use input mode File or FastFile, or negative_views=background"
        )
    refuse_pipe(job.hp, data.train)
    one_host = job.distributed.hosts == 1  # else each may have a part of the data
    if data.validation and data.validation.supports_random_access and one_host:
        job.task.check_validation(data.validation.sample)
    device = _prepare_process(job)
    if start.state:
        job = replace(job, hp=with_choices_of(start.state, job.hp))
    spec = _agree_on_spec(data, job, start)
    size_factors = job.hp.multi_scale
    chosen = with_size_factors(job.hp, spec, data.train.sample)
    chosen = with_colour_changes(chosen, data.train.sample, spec.rendering)
    job = replace(job, hp=job.distributed.broadcast(chosen))
    if reason := _why_from_scratch(spec, job, start):
        job = replace(job, environment={**job.environment, FROM_SCRATCH: reason})
    asked = start
    model, start = _build(data, job, spec, asked, device)
    job = replace(
        job, hp=with_batch_size(job, model, spec, train=data.train, extra_losses=start.extra_losses)
    )
    job, compute = calibrate(
        job, model, spec, train=data.train, extra_losses=start.extra_losses, resumed=bool(start.state)
    )
    if _tiles_follow_minutes(job, spec, start):
        hp = _hp_for_minutes(data, job, spec, compute)
        if hp.smallest_object:
            job = replace(job, hp=hp.model_copy(update={"multi_scale": size_factors}))
            spec = _agree_on_spec(data, job, asked)
            chosen = with_size_factors(job.hp, spec, data.train.sample)
            job = replace(job, hp=job.distributed.broadcast(chosen))
            torch.manual_seed(hp.seed)
            model, start = _build(data, job, spec, asked, device)
    # The fastest convolutions are looked for once for each size of views: only where there is one size.
    one_size = bool(spec.scaling.square) and not job.hp.multi_scale
    torch.backends.cudnn.benchmark = one_size and not job.hp.deterministic
    # what is drawn in a step is of this process's images
    torch.manual_seed(job.hp.seed + job.distributed.rank)
    trainer, state = _assemble(data, job, spec, model, start, compute)
    if start.state:
        say_where(start.state, job, start.checkpoints.name if start.checkpoints else "a checkpoint")
        state.load_state_dict(start.state)
    return trainer


def _build(
    data: DataSet, job: JobContext, spec: ModelSpec, start: Start, device: torch.device
) -> tuple[VisionModel, Start]:
    """The model on its device, and what it begins with, the losses of its teachers included."""
    model = _make_model(spec, job, start).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    taught = make_distillation(
        job.hp, job.task, model, spec=spec, classes=data.classes, teachers=start.teachers
    )
    return model, replace(start, extra_losses=(*start.extra_losses, *taught))


def _tiles_follow_minutes(job: JobContext, spec: ModelSpec, start: Start) -> bool:
    """Whether there are tiles that were chosen from the data, without regard to the time there is."""
    hp = job.hp
    from_data = hp.tile_grid_size in (None, "auto") and not hp.tile_size and hp.smallest_object is None
    trained_on = spec.tiling.kind in ("grid", "fixed") and hp.training_views != "whole"
    return hp.minutes is not None and from_data and trained_on and not start.state


def _hp_for_minutes(data: DataSet, job: JobContext, spec: ModelSpec, compute: Compute) -> Hyperparameters:
    """The leader's, with a ``smallest_object`` where the minutes hold too few epochs of the chosen tiles."""
    hp = with_larger_tiles(
        job.hp,
        _work_of(data, job, spec, make_planner(job.hp, spec), None),
        objects=int(data.train.sample.object_counts.sum()),
        shown=shown_from(job.hp, spec, data.train.sample),
        resolves=find_model(spec.name).resolves(stride_4_level=job.hp.stride_4_level),
        pixels_per_second=compute.pixels_per_second * job.distributed.size,
    )
    return job.distributed.broadcast(hp)


def _prepare_process(job: JobContext) -> torch.device:
    """Seed and tune this process; returns the device that it trains on."""
    torch.manual_seed(job.hp.seed)
    tune_device()
    tune_cpu(job.distributed.local_size)
    if job.hp.deterministic:
        be_deterministic()
    on_gpu = torch.cuda.is_available()
    return torch.device("cuda", job.distributed.local_rank) if on_gpu else torch.device("cpu")


def _agree_on_spec(data: DataSet, job: JobContext, start: Start) -> ModelSpec:
    """The model to train: the checkpoint's, or the one that the leader fits to its data."""
    if start.state:
        return agreed_spec(start.state, job, data.classes)
    initial = start.initial
    if initial:
        check_task(initial, job.task)
    leads = job.distributed.is_main_process
    own = job.task.fit_spec(job.hp, data, initial.spec if initial else None) if leads else None
    spec: ModelSpec | None = job.distributed.broadcast(own)
    assert spec is not None
    if initial:
        check_initial(initial, spec, data.classes, task=job.task)
    return spec


def _why_from_scratch(spec: ModelSpec, job: JobContext, start: Start) -> str:
    """Why a job trains from scratch although weights were asked for; empty where it does not."""
    if start.initial or start.continues or not job.hp.use_pretrained_model:
        return ""
    found = find_pretrained(spec.name, start.pretrained)
    return found if isinstance(found, str) else ""


def _make_model(spec: ModelSpec, job: JobContext, start: Start) -> VisionModel:
    """The model with the weights that the job begins with."""
    hp, model = job.hp, job.task.build(spec)
    if start.initial and not start.state:
        go_on_from(model, start.initial)
    elif hp.use_pretrained_model and not start.state:
        if FROM_SCRATCH in job.environment:
            log.warning("%s", job.environment[FROM_SCRATCH])
        else:
            log.info(load_pretrained(model, spec.name, start.pretrained))
    if any(getattr(hp, name) for name in _FREEZE):
        frozen = freeze(
            model, spec.name, hp.layers_to_freeze, pattern=hp.freeze_layer_pattern, azure=hp.azure_yolov5
        )
        log.info(frozen)
        from_scratch = not hp.use_pretrained_model or FROM_SCRATCH in job.environment
        if from_scratch and not start.initial and not start.state:
            log.warning(
                "the frozen layers keep the random weights that they begin with: begin with pretrained ones, "
                "or leave out %s",
                " and ".join(hp.spelling(name) for name in _FREEZE if getattr(hp, name)),
            )
    return model


def _work_of(
    data: DataSet,
    job: JobContext,
    spec: ModelSpec,
    planner: ViewPlanner | None,
    copy_paste: CopyPaste | None,
) -> Work:
    images = data.train.sample
    pixels = pixels_of_views(images, spec, planner, seed=job.hp.seed)
    train_pixels = round(pixels * (1 + copies_per_image(copy_paste, images)))
    wanted = data.validation is not None and job.hp.validation_metric_type != "none"
    validated = data.validation.expected_images if data.validation and wanted else 0
    return Work(train_pixels, pixels * validated // max(1, len(images)))


def _assemble(
    data: DataSet, job: JobContext, spec: ModelSpec, model: VisionModel, start: Start, compute: Compute
) -> tuple[Trainer, TrainState]:
    planner, repeats = make_planner(job.hp, spec), balance(job.hp, data.train, data.classes)
    if planner:
        planner.repeats = repeats
    copy_paste = make_copy_paste(
        job.hp, data.train, job.distributed, classes=len(data.classes), rendering=spec.rendering
    )
    work, share = None, 1.0
    if job.hp.minutes is not None and not start.state:
        work = _work_of(data, job, spec, planner, copy_paste)
        job, share = plan_epochs(job, work, pixels_per_second=compute.pixels_per_second)
        hp, share = job.distributed.broadcast((job.hp, share))  # the leader plans
        job = replace(job, hp=hp)
    hp = with_random_windows(job.hp, data.train.expected_images, tiled=planner is not None)
    job = replace(job, hp=hp)
    hp, distributed = job.hp, job.distributed
    workers = default_workers(distributed.local_size) if hp.num_workers is None else hp.num_workers
    batch_size = training_batch_size(hp, distributed.local_size)
    batches = load_views(
        hp,
        spec,
        data.train,
        planner=planner,
        repeats=repeats,
        copy_paste=copy_paste,
        batch_size=batch_size,
        workers=workers,
        distributed=distributed,
        pinned=next(model.parameters()).device.type == "cuda",
    )
    copies = 0.0 if data.train.known_length else copies_per_image(copy_paste, data.train.sample)
    loader = EpochLoader(data.train, batches, copies)
    loader.share = share
    steps = -(-loader.expected_batches(batch_size * distributed.size) // hp.gradient_accumulation_step)
    if hp.warmup_steps and hp.warmup_steps >= steps * hp.number_of_epochs:
        log.warning(
            "warmup_steps=%d and %d steps in all: the learning rate only rises, and ends before it is "
            "learning_rate: warm up for less, or train for longer",
            hp.warmup_steps,
            steps * hp.number_of_epochs,
        )
    train_step = TrainStep(
        model,
        hp,
        steps,
        view_size=spec.scaling.size_of(1, 1),
        distributed=distributed,
        extra_losses=start.extra_losses,
    )
    dtype, reason = train_step.precision
    log.info("training in %s: %s", str(dtype).removeprefix("torch."), reason)

    def predictor() -> Predictor:
        """The same in all processes, which must all ask: each has normalised by its own batches."""
        distributed.broadcast_buffers(train_step.evaluated)
        backend = TorchBackend(train_step.evaluated, validation_batch_size(hp, distributed.local_size))
        plan = ViewPlan(spec.scaling, spec.tiling, spec.rendering)
        return Predictor(backend, plan, data.classes, merge=job.task.merger(spec))

    progress = Progress()
    history = History(progress)
    pace = Pace(job, loader, train_step.scheduler, history=history, work=work)
    best = BestModel(job, spec, data.classes, train_step=train_step)
    false_positives = FalsePositives(job, planner, data.train, predictor=predictor)
    normalisation = NormalisationStatistics(batches, hp.seed)
    parts: dict[str, Stateful] = {
        "train_step": train_step,
        "best_model": best,
        "history": history,
        "false_positives": false_positives,
        "compute": compute,
        "pace": pace,
        "normalisation": normalisation,
    }
    state = TrainState(job, spec, data.classes, progress=progress, parts=parts)
    trainer = Trainer(
        job=job,
        loader=loader,
        false_positives=false_positives,
        train_step=train_step,
        threads=ThreadTuner(compute),
        pace=pace,
        normalisation=normalisation,
        validator=Validator(job, data.validation, predictor),
        best=best,
        progress=progress,
        history=history,
        checkpointer=Checkpointer(job, start.checkpoints, state),
    )
    return trainer, state
