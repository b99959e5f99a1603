"""ATSS: which priors are to find which object (Zhang et al., CVPR 2020)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tilewise.boxes import paired_iou
from tilewise.models.priors import Objects, Priors, one_object_each

NEAREST = 9
"""The candidates of an object on each feature map."""
ANCHOR_STRIDES = 8
"""The side of the square anchor around a point, in strides."""


class Positives(NamedTuple):
    """The K positive priors of a batch: their images, priors and objects."""

    images: Tensor
    priors: Tensor
    objects: Tensor


@torch.no_grad()
def atss(priors: Priors, objects: Objects, batch: int) -> Positives:
    """Assign priors to objects by the statistics of their overlaps.

    An object's candidates are the nine points nearest to its centre on each feature map. Those are positive
    whose anchor overlaps it by at least the mean plus the standard deviation of all its candidates' IoUs, and
    that lie in it. A point that several objects want goes to the one that its anchor overlaps most.

    The paper leaves objects without a positive that lie between the points, as many do that are smaller than
    a stride. Here such an object gets its best candidate: of highest IoU, and nearest where these are alike.

    Candidates are looked for near the object alone, so that nothing grows with objects times priors.

    Args:
        priors: the points.
        objects: of the batch.
        batch: the number of images.

    """
    candidates, distance = _candidates(priors, objects)  # (M, 9 * levels)
    points, half = priors.points[candidates], priors.strides[candidates] * ANCHOR_STRIDES / 2
    anchors = torch.cat([points - half[..., None], points + half[..., None]], dim=2)
    iou = paired_iou(anchors, objects.boxes[:, None])
    mean, count = iou.mean(dim=1, keepdim=True), iou.shape[1]
    # not Tensor.std, which warns where there is no object
    least = mean + ((iou - mean).square().sum(dim=1, keepdim=True) / (count - 1)).sqrt()
    low, high = objects.boxes[:, None, :2], objects.boxes[:, None, 2:]
    inside = ((points > low) & (points < high)).all(dim=2)
    positive = (iou >= least) & inside

    most = iou.amax(dim=1, keepdim=True).clamp(min=1e-9)
    preference = iou / most - 0.1 * distance / priors.strides[candidates]
    best = torch.zeros_like(positive).scatter_(1, preference.argmax(dim=1, keepdim=True), value=True)
    positive |= best & ~positive.any(dim=1, keepdim=True)

    number, candidate = torch.nonzero(positive, as_tuple=True)
    images, prior = objects.images[number], candidates[number, candidate]
    points_of_image = len(priors.points)
    unique = one_object_each(
        images * points_of_image + prior, -iou[number, candidate], number, count=points_of_image * batch
    )
    return Positives(images[unique], prior[unique], number[unique])


def _candidates(priors: Priors, objects: Objects) -> tuple[Tensor, Tensor]:
    """The nearest priors of each level and their distances: both (M, 9 * levels), or fewer on small maps.

    The nine nearest points of a grid lie within nine rows and nine columns, those of its edge included.
    """
    centre = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
    candidates, distances = [], []
    for height, width, stride, first in priors.levels:
        cell = ((centre - priors.points[first]) / stride).round().long()
        x, y = _around(cell[:, 0], width), _around(cell[:, 1], height)
        index = (first + y[:, :, None] * width + x[:, None, :]).flatten(1)
        distance = (priors.points[index] - centre[:, None]).norm(dim=2)
        nearest = distance.topk(min(NEAREST, index.shape[1]), dim=1, largest=False)
        candidates.append(index.gather(1, nearest.indices))
        distances.append(nearest.values)
    return torch.cat(candidates, dim=1), torch.cat(distances, dim=1)


def _around(cell_M: Tensor, cells: int) -> Tensor:
    """Nine neighbouring indices around each, inside a row of ``cells``; all of a shorter row."""
    most = min(NEAREST, cells)
    start = (cell_M - NEAREST // 2).clamp(0, cells - most)
    return start[:, None] + torch.arange(most, device=cell_M.device)
