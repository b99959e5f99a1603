"""``training_batch_size=auto``: the largest batch that the memory holds."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from tilewise.data.source import RecordSource
from tilewise.hyperparameters import Hyperparameters
from tilewise.hyperparameters.values import AUTO_BATCH
from tilewise.machine import available_memory
from tilewise.models.detector import VisionModel
from tilewise.models.spec import ModelSpec
from tilewise.models.totals import counting_alone
from tilewise.targets import Targets
from tilewise.training.dataloading.batch import Batch
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.training.job.context import JobContext
from tilewise.training.job.view_plans import size_factors
from tilewise.training.step.extra_losses import ExtraLoss, WithExtraLosses
from tilewise.training.step.memory import MARGIN, BatchTooLargeError
from tilewise.training.step.train_step import TrainStep
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling

log = logging.getLogger(__name__)

MakeTargets = Callable[[tuple[int, int], torch.Generator], Targets[Tensor]]
"""The targets of a view of (width, height) pixels; the generator is of its random numbers."""

MOST_ON_GPU, MOST_ON_CPU = 64, 16
STEPS_AN_EPOCH = 8
"""An epoch has at least so many: with fewer there is little to learn from."""
CPU_SHARE = 0.5
"""Of the free memory: images, loader processes and the validation need some, too."""
TRANSIENT = 2.0
"""What a step on a CPU holds at its peak, as a multiple of what the forward pass keeps: gradients of it."""


def with_batch_size(
    job: JobContext,
    model: VisionModel,
    spec: ModelSpec,
    *,
    train: RecordSource,
    extra_losses: Sequence[ExtraLoss] = (),
) -> Hyperparameters:
    """The hyperparameters of a job with a number for its batch size; see :func:`resolve_batch_size`."""
    hp, objects = job.hp, int(train.sample.object_counts.max(initial=0))
    if hp.training_batch_size != AUTO_BATCH:
        return hp
    if hp.copy_paste:
        objects *= 1 + hp.copy_paste_times
    if hp.mixup:  # a view shows the objects of two
        objects *= 2
    targets = partial(job.task.synthetic_targets, objects)
    factors, views = size_factors(hp, spec), train.expected_images
    return resolve_batch_size(
        hp,
        model,
        spec.scaling,
        factors=factors,
        views=views,
        targets=targets,
        distributed=job.distributed,
        extra_losses=extra_losses,
    )


def resolve_batch_size(  # noqa: PLR0913  # all that a step's memory depends on
    hp: Hyperparameters,
    model: VisionModel,
    scaling: Scaling,
    *,
    factors: Sequence[float],
    views: int,
    targets: MakeTargets,
    distributed: DistributedContext = SINGLE_PROCESS,
    extra_losses: Sequence[ExtraLoss] = (),
) -> Hyperparameters:
    """The hyperparameters with a number in place of ``training_batch_size=auto``; the log says why.

    On a GPU the job's own step is tried with 1, 2, 4, … of the largest views that it can meet, on a copy of
    the model. On a CPU, which would swap or be killed where a GPU says no, what the forward pass of one
    batch keeps is added up.

    Args:
        hp: the job's.
        model: on the device to train on.
        scaling: of its views.
        factors: that a batch's views are scaled by; see :func:`size_factors`.
        views: of an epoch, or about so many.
        targets: makes those of a view such as the fullest.
        distributed: the processes that train together; they take what fits in all of them.
        extra_losses: beside the model's own; they are copied.

    """
    device = next(model.parameters()).device
    limit = MOST_ON_GPU if device.type == "cuda" else MOST_ON_CPU
    enough_steps = views // (STEPS_AN_EPOCH * distributed.size)
    most = max(1, min(limit, enough_steps))
    side = largest_views(scaling, max(factors))
    with undisturbed(device):
        make = partial(synthetic_batch, side=side, targets=targets)
        cuda = device.type == "cuda"
        fits = (
            _fits_gpu(model, extra_losses, hp, make)
            if cuda
            else _fits_cpu(model, extra_losses, make, distributed.local_size)
        )
        size = 1
        while 2 * size <= most and fits(2 * size):
            size *= 2
    size = distributed.all_reduce_min(size)
    name = hp.spelling("training_batch_size")
    if 2 * size <= most:
        why = f"{2 * size} views of {side[0]} x {side[1]} pixels would not fit into memory"
    elif enough_steps >= limit:
        why = "it is never larger"
    else:
        why = f"more than {most} would leave an epoch of {views} views too few steps"
    per_machine = size * (distributed.local_size if hp.batch_unit == "machine" else 1)
    log.info("%s=auto: %d (%s); learning_rate stays %g", name, per_machine, why, hp.learning_rate)
    changed = {"training_batch_size": per_machine}
    if hp.dialect == "builtin" and "validation_batch_size" not in hp.given:
        changed["validation_batch_size"] = per_machine
    return hp.model_copy(update=changed)


def training_batch_size(hp: Hyperparameters, processes: int) -> int:
    """The batch size of training for one of the processes of a host.

    ``training_batch_size`` is that of a process, the built-in algorithm's ``mini_batch_size`` that of a host.
    """
    if hp.batch_unit == "machine" and hp.training_batch_size % processes:
        log.warning(
            "mini_batch_size=%d is no multiple of the %d GPUs: %d is used",
            hp.training_batch_size,
            processes,
            -(-hp.training_batch_size // processes) * processes,
        )
    return _share(hp, hp.training_batch_size, processes)


def validation_batch_size(hp: Hyperparameters, processes: int) -> int:
    """That of validation, and of whatever else scores the model on one GPU."""
    return _share(hp, hp.validation_batch_size, processes)


def _share(hp: Hyperparameters, size: int, processes: int) -> int:
    return size if hp.batch_unit == "gpu" else -(-size // processes)


def largest_views(scaling: Scaling, factor: float = 1.0) -> tuple[int, int]:
    """Width and height of the largest batch, as it is padded: views that lie and views that stand."""
    if scaling.square:
        side = round(scaling.square * factor)
    else:
        assert scaling.min_size and scaling.max_size
        # of images and windows up to twice as long as wide
        side = round(min(scaling.max_size, 2 * scaling.min_size) * factor)
    return side, side


def synthetic_batch(count: int, side: tuple[int, int], targets: MakeTargets) -> list[Sample]:
    """Noise with targets as there may be; on the CPU, as a loader's batches are."""
    width, height = side
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(count):
        of_view = targets(side, generator)
        pixels = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        batch.append(Sample(pixels, of_view))
    return batch


Make = Callable[[int], list[Sample]]


def _fits_gpu(
    model: VisionModel, extra_losses: Sequence[ExtraLoss], hp: Hyperparameters, make: Make
) -> Callable[[int], bool]:
    """By trial: two steps of a job like this one, the second with the optimizer's state in place."""

    def fits(count: int) -> bool:
        device = next(model.parameters()).device
        trial = hp.model_copy(
            update={"training_batch_size": count, "gradient_accumulation_step": 1, "compile": False}
        )
        torch.cuda.reset_peak_memory_stats(device)
        try:
            losses = [copy.deepcopy(each) for each in extra_losses]
            train_step = TrainStep(copy.deepcopy(model), trial, 1, view_size=(1, 1), extra_losses=losses)
            train_step.begin_epoch()
            for _ in range(2):
                train_step.learn(Batch.of(make(count)))
            peak = torch.cuda.max_memory_reserved(device)
            return peak <= MARGIN * torch.cuda.mem_get_info(device)[1]
        except BatchTooLargeError:
            return False
        finally:
            train_step = None  # type: ignore[assignment]
            torch.cuda.empty_cache()

    return fits


def _fits_cpu(
    model: VisionModel, extra_losses: Sequence[ExtraLoss], make: Make, processes: int
) -> Callable[[int], bool]:
    """By measure of one batch: what a forward pass keeps for the backward one grows with the views."""
    trial = WithExtraLosses(copy.deepcopy(model), [copy.deepcopy(each) for each in extra_losses]).train()
    batch = make(1)
    storage_bytes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storage_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = trial([sample.pixels for sample in batch], [sample.targets for sample in batch])
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trial.parameters())
    a_view = TRANSIENT * max(0, sum(storage_bytes.values()) - weights)
    del losses, trial
    states = 4  # gradients, two of Adam's, and an average
    room = CPU_SHARE * available_memory() / processes - states * weights
    return lambda count: count * a_view <= room


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """For a trial of this process alone; the state of the random numbers is afterwards what it was."""
    with counting_alone(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
