from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tilewise.models.detector import Outputs, VisionModel
from tilewise.targets import Targets


class ExtraLoss(nn.Module):
    """A loss beside the model's own; distillation is one.

    It may have parameters: they are learnt like the model's and kept in checkpoints, and are no part of
    the model that a job leaves.
    """

    def forward(
        self,
        images: Sequence[Tensor],
        outputs: Outputs,
        targets: Sequence[Targets[Tensor]],
        losses: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The losses of a batch by name.

        Args:
            images: the views as the model gets them, (3, h, w) uint8 each, on the device.
            outputs: what the network made of the batch: feature maps by name, and the family's raw heads.
            targets: of each view of the batch, on the device.
            losses: the model's own, by name.

        """
        raise NotImplementedError


class WithExtraLosses(nn.Module):
    """A model and the losses beside its own as one module, as an optimizer and DDP want it.

    Args:
        model: in training; its parameters come first.
        extra_losses: may be none.

    """

    def __init__(self, model: VisionModel, extra_losses: Sequence[ExtraLoss]):
        super().__init__()
        self.model = model
        self.extra_losses = nn.ModuleList(extra_losses).to(next(model.parameters()).device)

    def forward(self, images: Sequence[Tensor], targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        """All losses by name."""
        if not self.extra_losses:
            own_losses: dict[str, Tensor] = self.model(images, targets)
            return own_losses
        outputs, own_losses = self.model.outputs_and_losses(images, targets)
        losses = dict(own_losses)
        for extra in self.extra_losses:
            losses |= extra(images, outputs, targets, own_losses)
        return losses
