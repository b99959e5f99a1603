"""Trainings on a few small squares, most of them of a detector that takes no time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from stand_ins import make_hp, make_job
from tilewise.data.channel import DataSet
from tilewise.hyperparameters import Hyperparameters
from tilewise.instances import Instances
from tilewise.models.detector import Detector
from tilewise.targets import Targets
from tilewise.training.history import TrainResult
from tilewise.training.train import train
from torch import Tensor, nn

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


class StandIn(Detector):
    """All that the loop asks of a detector, in no time: its loss is a linear function of the mean colours."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 1), *3 * [nn.Identity()])
        nn.init.zeros_(self.network.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.network.bias)  # type: ignore[arg-type]

    def forward(
        self, images: Iterable[Tensor], targets: Iterable[Targets[Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        colours = torch.stack([image.float().mean(dim=(1, 2)) / 255 for image in images])
        if targets is None:
            nothing = Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
            return [nothing for _ in colours]
        counts = torch.tensor([[len(each)] for each in targets]).float()
        return self.loss(self.network(colours), counts)

    def loss(self, found: Tensor, counts: Tensor) -> dict[str, Tensor]:
        return {"classification": (found - counts).square().mean()}


class Steady(StandIn):
    """Its gradient is always 1 for the bias, unless the batch is one of those whose loss is not finite."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.bad = bad
        self.batches = 0

    def loss(self, found: Tensor, counts: Tensor) -> dict[str, Tensor]:
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
