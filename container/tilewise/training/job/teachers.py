"""The models of the channel ``teacher``, for distillation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.inference.artifact import Artifact
from tilewise.models.detector import VisionModel
from tilewise.models.spec import ModelSpec
from tilewise.tasks.task import Task
from tilewise.training.job.initial_model import models_in, read_archive
from tilewise.training.step.amp import keep_depthwise_in_float32
from tilewise.training.step.distillation import ChannelDistillation, Teacher

log = logging.getLogger(__name__)


def read_teachers(channel: Path) -> list[Artifact]:
    """The models in the channel ``teacher``: jobs' ``model.tar.gz``, in folders of their own, or unpacked.

    Raises:
        UserError: there is none, or one is damaged, or of another program; the message says which.

    """
    if not channel.is_dir():
        raise UserError(f"the folder of channel teacher is not there: {channel}")
    files = sorted(path for path in channel.rglob("*") if path.is_file())
    archives, unpacked = models_in(files)
    teachers = [
        read_archive(archive, f"channel teacher: {archive.relative_to(channel)}") for archive in archives
    ]
    teachers += [Artifact.load(description.parent) for description in unpacked]
    if not teachers:
        held = ", ".join(path.name for path in files[:5]) or "nothing"
        raise UserError(
            f"channel teacher holds no model of Tilewise ({held}): give it the model.tar.gz of one or "
            "several jobs"
        )
    return teachers


def make_distillation(
    hp: Hyperparameters,
    task: Task,
    model: VisionModel,
    *,
    spec: ModelSpec,
    classes: Sequence[str],
    teachers: Sequence[Artifact],
) -> list[ChannelDistillation]:
    """What a job learns from its teachers; nothing where it has none.

    Args:
        hp: the job's.
        task: the job's.
        model: the student, on the device to train on.
        spec: of the student.
        classes: the student's names, by label.
        teachers: trained models.

    Raises:
        UserError: a teacher has another task, none of the classes, or no map that the student has, too.

    """
    if not teachers:
        return []
    device = next(model.parameters()).device
    learnt_from = []
    for number, teacher in enumerate(teachers):
        name = _name(number, teacher)
        pairs = _common_classes(name, classes, teacher, task)
        frozen = teacher.model.eval().requires_grad_(requires_grad=False)
        frozen = frozen.to(device, memory_format=torch.channels_last)
        if device.type == "cpu":
            keep_depthwise_in_float32(frozen)
        if teacher.spec.rendering != spec.rendering:
            log.warning("%s was trained with other bands or another pixel_range than this job has", name)
        learnt_from.append(Teacher(frozen, pairs))
    loss = ChannelDistillation(
        model,
        learnt_from,
        maps=hp.distillation_maps,
        view_size=spec.scaling.size_of(1, 1),
        temperature=hp.distillation_temperature,
        weight=hp.distillation_weight,
        seed=hp.seed,
    )
    for number, (teacher, strides) in enumerate(zip(teachers, loss.strides, strict=True)):
        _check_strides(hp, _name(number, teacher), spec, strides)
    return [loss]


def _name(number: int, teacher: Artifact) -> str:
    return f"channel teacher, model {number + 1} ({teacher.spec.name})"


def _common_classes(
    name: str, classes: Sequence[str], teacher: Artifact, task: Task
) -> list[tuple[int, int]]:
    """Pairs of a class of the student and the one of that name of the teacher."""
    if teacher.task != task.name:
        raise UserError(
            f"{name}: this job has task {task.name}, but that model {teacher.task}: give a teacher of this "
            "task"
        )
    pairs = [
        (label, teacher.classes.index(each)) for label, each in enumerate(classes) if each in teacher.classes
    ]
    if not pairs:
        raise UserError(
            f"{name} knows none of the classes of this job ({_list(classes)}), but {_list(teacher.classes)}: "
            "give a teacher that was trained on the same classes"
        )
    if len(pairs) < len(classes):
        missing = [each for each in classes if each not in teacher.classes]
        log.warning("%s does not know %s", name, _list(missing))
    return pairs


def _check_strides(hp: Hyperparameters, name: str, spec: ModelSpec, strides: Sequence[int]) -> None:
    if strides:
        log.info(
            "%s: learning from its %s at strides %s (distillation_weight=%g, distillation_temperature=%g)",
            name,
            "feature maps" if hp.distillation_maps == "neck" else "maps of class logits",
            ", ".join(map(str, strides)),
            hp.distillation_weight,
            hp.distillation_temperature,
        )
        return
    why = "no map of class logits" if hp.distillation_maps == "logits" else "no feature map at a stride"
    raise UserError(
        f"{name} and {spec.name} have {why} in common: give a teacher of another family"
        + (", or distillation_maps=neck" if hp.distillation_maps == "logits" else "")
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join([*names[:10], "…"] if len(names) > 10 else names)
