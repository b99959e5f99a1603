"""The points of a one-stage network's feature maps, each a prior of one detection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tilewise.boxes import area_of_sides, intersection_and_union
from tilewise.models.matching import Target


class Priors(NamedTuple):
    """The points of all feature maps of a view, level by level, row by row.

    Attributes:
        points: (P, 2) x and y in pixels of the view.
        strides: (P,) of the feature map, in pixels.
        levels: for each feature map its (height, width), stride and first prior.

    """

    points: Tensor
    strides: Tensor
    levels: tuple[tuple[int, int, int, int], ...]

    def maps(self, values_BPC: Tensor) -> list[Tensor]:
        """What a network says of all priors -> (B, C, h, w) of each feature map."""
        return [
            values_BPC[:, first : first + height * width].transpose(1, 2).unflatten(2, (height, width))
            for height, width, _, first in self.levels
        ]


class Objects(NamedTuple):
    """The objects of a batch: their boxes (M, 4), labels (M,) 0-based, and images (M,)."""

    boxes: Tensor
    labels: Tensor
    images: Tensor


def make_priors(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], offset: float, *, device: torch.device
) -> Priors:
    """The points of feature maps of these (height, width), ``offset`` strides from the top left corner."""
    points, sizes, levels, first = [], [], [], 0
    for (height, width), stride in zip(shapes, strides, strict=True):
        y = (torch.arange(height, device=device) + offset) * stride
        x = (torch.arange(width, device=device) + offset) * stride
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=2)
        points.append(grid.reshape(-1, 2).float())
        sizes.append(torch.full((height * width,), float(stride), device=device))
        levels.append((height, width, stride, first))
        first = first + height * width  # a traced number must not be changed in place
    return Priors(torch.cat(points), torch.cat(sizes), tuple(levels))


def gather_objects(targets: Sequence[Target]) -> Objects:
    """The objects of all images of a batch, one after the other."""
    images = [torch.full_like(target["labels"], row) for row, target in enumerate(targets)]
    return Objects(
        torch.cat([target["boxes"] for target in targets]),
        torch.cat([target["labels"] for target in targets]),
        torch.cat(images),
    )


def on_ignored_points(priors: Priors, targets: Sequence[Target]) -> Tensor:
    """Which priors must not be taught to be background: those whose cell of the grid touches an ignored box.

    Returns:
        (B, P) bool.

    """
    half = priors.strides[:, None] / 2
    low, high = priors.points + half, priors.points - half
    rows = []
    for target in targets:
        x0, y0, x1, y1 = target["ignored"].T
        inside = (low[:, :1] > x0) & (low[:, 1:] > y0) & (high[:, :1] < x1) & (high[:, 1:] < y1)
        rows.append(inside.any(dim=1))
    return torch.stack(rows)


def one_object_each(priors_K: Tensor, costs_K: Tensor, objects_K: Tensor, *, count: int) -> Tensor:
    """Of pairs of a prior and an object, those that are the cheapest of their prior.

    Where two cost the same, the object with the lower index has it.

    Args:
        priors_K: the prior of each pair, below ``count``.
        costs_K: lower is better.
        objects_K: the object of each pair.
        count: of priors.

    Returns:
        The pairs' indices, in ascending order; each prior has at most one.

    """
    cheapest = costs_K.new_full((count,), torch.inf)
    cheapest = cheapest.scatter_reduce(0, priors_K, costs_K, "amin")
    best = costs_K == cheapest[priors_K]
    last = torch.iinfo(torch.int64).max
    first = objects_K.new_full((count,), last)
    first = first.scatter_reduce(0, priors_K, objects_K.where(best, last), "amin")
    return torch.nonzero(best & (objects_K == first[priors_K])).flatten()


def paired_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019), pair by pair: (…, 4) and (…, 4) -> (…) in -1..1.

    Not torchvision's loss, which picks the boxes that overlap, and so stops a GPU to learn how many they are.
    """
    shared, united = intersection_and_union(boxes, others)
    least = torch.minimum(boxes[..., :2], others[..., :2])
    hull = area_of_sides((torch.maximum(boxes[..., 2:], others[..., 2:]) - least).clamp(min=0))
    return shared / united.clamp(min=1e-9) - (hull - united) / hull.clamp(min=1e-9)
