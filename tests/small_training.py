"""Trainings on a few small squares, most of them of a detector that takes no time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from stand_ins import make_hp, make_job
from tilewise.data.channel import DataSet
from tilewise.hyperparameters import Hyperparameters
from tilewise.models.detector import Criterion, Detector
from tilewise.models.postprocess import Candidates
from tilewise.suppression import Limits
from tilewise.targets import Targets
from tilewise.training.history import TrainResult
from tilewise.training.train import train
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

SIDE = 96
# One epoch of plain gradient descent.
plain_hp = partial(
    make_hp,
    image_size=SIDE,
    number_of_epochs=1,
    learning_rate_scheduler="step",
    momentum=0,
    weight_decay=0,
)


def mean_colours(images: Sequence[Tensor]) -> ImageList:
    colours = torch.stack([image.float().mean(dim=(1, 2)) / 255 for image in images])
    return ImageList(colours, [(int(image.shape[1]), int(image.shape[2])) for image in images])


def error_of_the_count(found: Tensor, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
    counts = torch.tensor([[len(each)] for each in targets]).float()
    return {"classification": (found - counts).square().mean()}


class Nothing:
    """A postprocess without candidates."""

    limits = Limits(0.5, 0.5, 0, 0)

    def __call__(self, outputs: Tensor, sizes: Sequence[tuple[int, int]]) -> Candidates:
        none = torch.zeros(len(sizes), 0)
        return Candidates(none[..., None].expand(-1, -1, 4), none, none.long())


class StandIn(Detector):
    """All that the loop asks of a detector, in no time: a linear function of the mean colours."""

    def __init__(
        self,
        transform: Callable[[Sequence[Tensor]], ImageList] = mean_colours,
        criterion: Criterion = error_of_the_count,
    ) -> None:
        super().__init__(nn.Linear(3, 1), transform, criterion, Nothing())
        nn.init.zeros_(self.network.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.network.bias)  # type: ignore[arg-type]


class Steady(StandIn):
    """Its gradient is always 1 for the bias, unless the batch is one of those whose loss is not finite."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__(criterion=self.the_bias)
        self.bad = bad
        self.batches = 0

    def the_bias(self, found: Tensor, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        self.batches += 1
        bias = self.network.get_parameter("bias").sum()
        return {"classification": bias * torch.nan if self.batches - 1 in self.bad else bias}


def run(data: DataSet, hp: Hyperparameters, model_dir: Path, *stand_ins: Any, **more: Any) -> TrainResult:
    return train(data, make_job(hp, model_dir, *stand_ins, **more))


def description(model_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((model_dir / "model.json").read_text())
    return content


def saved(model_dir: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(model_dir / description(model_dir)["weights"])
    return tensors
