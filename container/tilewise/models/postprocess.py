"""From a network's outputs to the boxes that it may have found, for the whole batch at once.

All of it can be traced: an exported graph holds it. What is left to do, the suppression of boxes that show
the same object, is NumPy's: :func:`tilewise.suppression.suppress`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torchvision.models.detection._utils import _topk_min

from tilewise.instances import Instances
from tilewise.suppression import Limits, suppress


class Candidates(NamedTuple):
    """The boxes that each view of a batch may show, before suppression: K of each.

    Attributes:
        boxes: (B, K, 4) float32, in pixels of the view and cut at its border.
        scores: (B, K) float32; some may be below the threshold.
        labels: (B, K) int64, 0-based.

    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    @staticmethod
    def cat(parts: Sequence[Candidates]) -> Candidates:
        """Those of several feature maps."""
        return Candidates(*(torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True)))


class Postprocess(Protocol):
    """Turns a network's outputs and each view's (height, width) into candidates; a family's own."""

    limits: Limits

    def __call__(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> Candidates:
        """The best candidates, at least so many as can remain after suppression."""


class Best(NamedTuple):
    """The best scores of each view: their priors, classes (0-based) and values, all (B, K)."""

    priors: Tensor
    classes: Tensor
    scores: Tensor

    def of(self, values_BN: Tensor) -> Tensor:
        """What belongs to their priors: (B, N, …) -> (B, K, …)."""
        index = self.priors
        for size in values_BN.shape[2:]:
            index = index[..., None].expand(*index.shape, size)
        return values_BN.gather(1, index)


def best_scores(scores_BNC: Tensor, most: int, *, by_class: bool = False) -> Best:
    """At most so many of the best scores of each view, or of each class of a view; logits will do, too."""
    if by_class:
        values, priors = scores_BNC.transpose(1, 2).topk(_topk_min(scores_BNC, most, 1), dim=2)
        classes = torch.arange(scores_BNC.shape[2], device=priors.device)[:, None].expand_as(priors)
        return Best(priors.flatten(1), classes.flatten(1), values.flatten(1))
    num_classes = scores_BNC.shape[2]
    flat = scores_BNC.flatten(1)
    values, index = flat.topk(_topk_min(flat, most, 1), dim=1)
    return Best(index.div(num_classes, rounding_mode="floor"), index % num_classes, values)


def clip(boxes_BK4: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Boxes cut at the border of views of these (height, width)."""
    edges = edges_of(sizes, boxes_BK4)[:, None]
    return torch.minimum(boxes_BK4.clamp(min=0), edges)


def edges_of(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """(B, 4) the largest coordinates in views of these (height, width); what is traced stays traced."""
    rows = [
        torch.stack([torch.as_tensor(side) for side in (width, height, width, height)])
        for height, width in sizes
    ]
    return torch.stack(rows).to(like.device, like.dtype, non_blocking=True)


def detections_of(candidates: Candidates, limits: Limits) -> list[Instances]:
    """What is left of each view's candidates after suppression."""
    boxes, scores, labels = (tensor.detach().cpu().numpy() for tensor in candidates)
    return [suppress(*view, limits=limits) for view in zip(boxes, scores, labels, strict=True)]
