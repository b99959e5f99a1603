"""Channel-wise distillation (Shu et al., ICCV 2021, arXiv 2011.13256)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tilewise.models.detector import Outputs, VisionModel
from tilewise.targets import Targets
from tilewise.training.step.extra_losses import ExtraLoss

Maps = Literal["neck", "logits"]
"""What is compared: the feature maps that the heads look at, or the logits of the classes on them."""

LOSS = "distillation"


@dataclass(frozen=True)
class Teacher:
    """A trained model to learn from; nothing changes it.

    Attributes:
        model: in evaluation mode, on the device.
        classes: pairs of a class of the student and the same one of the teacher.

    """

    model: VisionModel
    classes: Sequence[tuple[int, int]]

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        """Itself: a trial of a step needs no other one."""
        return self


class ChannelDistillation(ExtraLoss):
    """The student's maps are taught to be active where the teachers' are.

    Each channel's map, divided by a temperature, becomes a distribution over its places by softmax. The
    loss is the Kullback-Leibler divergence of the student's from the teacher's, summed over places, mean over
    channels and images, times the square of the temperature, and summed over the maps of the strides that
    both have. Of several teachers it is the mean, which has the same gradient as the divergence from their
    mean.

    Teachers see the very pixels that the student sees, normalised as they were trained. They are no part of
    this module: neither the optimizer nor a checkpoint knows them. Where widths differ, a 1x1 convolution,
    which is learnt, turns the student's channels into the teacher's.

    Args:
        student: the model to train.
        teachers: on its device.
        maps: what is compared.
        view_size: (width, height) of a view, by which maps of the same stride are found.
        temperature: above 1 the distributions are softer.
        weight: of the loss.
        seed: of the convolutions' first weights.

    Attributes:
        strides: that are compared, of each teacher.

    """

    def __init__(  # the hyperparameters are three of them
        self,
        student: VisionModel,
        teachers: Sequence[Teacher],
        *,
        maps: Maps,
        view_size: tuple[int, int],
        temperature: float = 1.0,
        weight: float = 5.0,
        seed: int = 0,
    ):
        super().__init__()
        self.maps, self.temperature, self.weight = maps, temperature, weight
        self._teachers = tuple(teachers)  # no modules of this one
        self.register_buffer("number_of_teachers", torch.tensor(len(teachers)))  # a checkpoint tells by it
        own = _levels(student, maps, view_size)
        self._levels: list[list[tuple[int, int, str]]] = []
        self.strides: list[tuple[int, ...]] = []
        self.adapters = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for number, teacher in enumerate(teachers):
                theirs = _levels(teacher.model, maps, view_size)
                common = tuple(stride for stride in own if stride in theirs)
                self.strides.append(common)
                self._levels.append([])
                for stride in common:
                    (level, width), (other, other_width) = own[stride], theirs[stride]
                    name = f"{number}_{stride}"
                    self._levels[-1].append((level, other, name))
                    if maps == "neck" and width != other_width:
                        self.adapters[name] = nn.Conv2d(width, other_width, 1)

    def forward(
        self,
        images: Sequence[Tensor],
        outputs: Outputs,
        targets: Sequence[Targets[Tensor]],
        losses: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """``distillation``, in float32."""
        own = _maps(outputs, self.maps)
        total = own[0].new_zeros((), dtype=torch.float32)
        for teacher, levels in zip(self._teachers, self._levels, strict=True):
            with torch.no_grad():
                theirs = _teacher_maps(teacher.model, images, self.maps)
            for level, other, name in levels:
                student, taught = own[level], theirs[other]
                if self.maps == "logits":
                    student = student[:, [one for one, _ in teacher.classes]]
                    taught = taught[:, [one for _, one in teacher.classes]]
                elif name in self.adapters:
                    student = self.adapters[name](student)
                # padded to other multiples, maps of one stride may differ in their last rows and columns
                height, width = (
                    min(sides) for sides in zip(student.shape[2:], taught.shape[2:], strict=True)
                )
                student, taught = (each[..., :height, :width] for each in (student, taught))
                total = total + channel_divergence(student, taught, self.temperature)
        return {LOSS: self.weight * total / len(self._teachers)}


def channel_divergence(student_BCHW: Tensor, teacher_BCHW: Tensor, temperature: float) -> Tensor:
    """T²/C · Σ over channels of KL(teacher ‖ student), mean over images; in float32 also under autocast."""
    with torch.autocast(student_BCHW.device.type, enabled=False):
        logs, taught = (
            (each.float().flatten(2) / temperature).log_softmax(dim=2)
            for each in (student_BCHW, teacher_BCHW)
        )
        divergence = (taught.exp() * (taught - logs)).sum(dim=2)
        return temperature**2 * divergence.mean()


def _maps(outputs: Outputs, maps: Maps) -> list[Tensor]:
    return list(outputs.features.values()) if maps == "neck" else outputs.class_maps()


def _teacher_maps(model: VisionModel, images: Sequence[Tensor], maps: Maps) -> list[Tensor]:
    if maps == "neck":
        return list(model.feature_maps(images).values())
    return model.outputs(model.transform(images)).class_maps()


@torch.no_grad()
def _levels(model: VisionModel, maps: Maps, view_size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """By its stride, rounded to a power of two, each map's number and width; the first of a stride."""
    device = next(model.parameters()).device
    blank = torch.zeros((3, view_size[1], view_size[0]), dtype=torch.uint8, device=device)
    was_training = model.training
    model.eval()
    height = model.transform([blank]).tensors.shape[2]
    found = _teacher_maps(model, [blank], maps)
    model.train(was_training)
    levels: dict[int, tuple[int, int]] = {}
    for level, each in enumerate(found):
        stride = 2 ** round(math.log2(height / each.shape[2]))
        levels.setdefault(stride, (level, each.shape[1]))
    return levels
