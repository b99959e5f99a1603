"""torchvision's anchors in float32, whatever the maps are in, and made once for batches of one size.

torchvision's take the type of the feature maps. In bfloat16, which mixed precision computes these in,
neighbouring numbers are 2 px apart from 256 px on and 8 px from 1024 px on: training would match anchors
beside the places that the same network's detections are decoded from in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from tilewise.models.layers import pieces


class _Kept(nn.Module):
    """To be named before a generator of torchvision's whose anchors depend on sizes alone."""

    _last: tuple[Any, Tensor] | None = None
    num_anchors_per_location: Any

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Of each image of a batch its anchors, (A, 4) float32 in pixels: one tensor, not to be changed."""
        if torch.jit.is_tracing():  # of views of any size
            anchors: list[Tensor] = super().forward(image_list, feature_maps)
            return anchors
        batch, device = image_list.tensors, feature_maps[0].device
        sizes = (tuple(batch.shape[2:]), *(tuple(each.shape[2:]) for each in feature_maps), device)
        if self._last is None or self._last[0] != sizes:
            # What inference mode makes could not be learnt with later.
            with torch.inference_mode(mode=False), torch.no_grad():
                like = [torch.empty((0, *each.shape[1:]), device=device) for each in feature_maps]
                one = ImageList(torch.empty((0, *batch.shape[1:])), image_list.image_sizes[:1])
                self._last = sizes, super().forward(one, like)[0]
        return [self._last[1]] * len(image_list.image_sizes)

    def by_level(self, batch_BCHW: Tensor, feature_maps: list[Tensor]) -> tuple[Tensor, ...]:
        """The anchors of each feature map: those of any image of the batch."""
        (anchors,) = self(ImageList(batch_BCHW, [batch_BCHW.shape[2:]]), feature_maps)
        per_cell = self.num_anchors_per_location()
        counts = [
            each.shape[2] * each.shape[3] * count for each, count in zip(feature_maps, per_cell, strict=True)
        ]
        return tuple(pieces(anchors, counts))


class Anchors(_Kept, AnchorGenerator):
    """Of Faster R-CNN, RetinaNet and FCOS."""


class DefaultBoxes(_Kept, DefaultBoxGenerator):
    """Of SSD."""
