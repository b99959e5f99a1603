"""An extra loss with a parameter of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tilewise.models.detector import Outputs
from tilewise.targets import Targets
from tilewise.training.step.extra_losses import ExtraLoss
from torch import Tensor, nn


class WeightedLosses(ExtraLoss):
    """The detector's losses once more, at first by half; by how much is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(
        self,
        images: Sequence[Tensor],
        outputs: Outputs,
        targets: Sequence[Targets[Tensor]],
        losses: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        return {"again": self.weight * torch.stack(list(losses.values())).sum()}
