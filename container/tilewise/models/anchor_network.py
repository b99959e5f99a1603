"""What SSD, RetinaNet and FCOS have in common: a head on feature maps, with anchors at their cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from tilewise.models.layers import pieces


class AnchorOutputs(NamedTuple):
    """What a head of torchvision's says of each of A anchors.

    Attributes:
        features: (B, C, h, w) feature maps by name, finest first.
        heads: (B, A, …) float32 by torchvision's names: ``cls_logits``, ``bbox_regression`` and FCOS's
            ``bbox_ctrness``.
        anchors: of each feature map (A of it, 4) in pixels of the batch: the same for all images. FCOS's are
            the squares around its points, a stride wide.
        background: whether class 0 is background.

    """

    features: dict[str, Tensor]
    heads: dict[str, Tensor]
    anchors: tuple[Tensor, ...]
    background: bool = False

    def class_maps(self) -> list[Tensor]:
        """See :class:`~tilewise.models.detector.Outputs`; where there is a background, over its logit."""
        maps = []
        levels = self.by_level("cls_logits")
        for (logits, _), features in zip(levels, self.features.values(), strict=True):
            height, width = features.shape[2:]
            by_cell = logits.unflatten(1, (height * width, -1))
            if self.background:
                by_cell = by_cell[..., 1:] - by_cell[..., :1]
            maps.append(by_cell.amax(dim=2).transpose(1, 2).unflatten(2, (height, width)))
        return maps

    def by_level(self, *names: str) -> Iterator[tuple[Tensor, ...]]:
        """Of each feature map these heads, and its anchors."""
        counts = [each.shape[0] for each in self.anchors]
        split = (pieces(self.heads[name], counts, dim=1) for name in names)
        return zip(*split, self.anchors, strict=True)


class AnchorNetwork(nn.Module):
    """Backbone, anchors and head: torchvision's networks without what surrounds them.

    Args:
        backbone: batch -> feature maps by name.
        anchor_generator: one of :mod:`tilewise.models.anchor_generators`.
        head: feature maps -> what it says of each anchor, by name.
        background: whether its class 0 is background.

    """

    def __init__(
        self, backbone: nn.Module, anchor_generator: Any, head: nn.Module, *, background: bool = False
    ):
        super().__init__()
        self.backbone, self.anchor_generator, self.head = backbone, anchor_generator, head
        self.background = background

    def features(self, batch_BCHW: Tensor) -> dict[str, Tensor]:
        """The feature maps of a normalised batch by name, finest first."""
        maps: dict[str, Tensor] = self.backbone(batch_BCHW)
        return maps

    def forward(self, batch_BCHW: Tensor) -> AnchorOutputs:
        """Of a normalised batch."""
        features = self.features(batch_BCHW)
        maps = list(features.values())
        heads = {name: output.float() for name, output in self.head(maps).items()}
        anchors = self.anchor_generator.by_level(batch_BCHW, maps)
        return AnchorOutputs(features, heads, anchors, self.background)
