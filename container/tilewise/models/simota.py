"""SimOTA: which priors are to find which object (YOLOX, arXiv 2107.08430, section 2.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tilewise.boxes import paired_iou
from tilewise.models.priors import Objects, Priors, one_object_each

RADIUS = 1.5
"""A prior may find an object whose centre is nearer than this many strides, in x and in y."""
MOST_PRIORS = 10
IOU_COST = 3.0


class Assignment(NamedTuple):
    """The K positive priors of a batch: their images, priors and objects, and the IoU of box and object."""

    images: Tensor
    priors: Tensor
    objects: Tensor
    iou: Tensor


@torch.no_grad()
def simota(
    boxes_BP4: Tensor, class_logits_BPC: Tensor, object_logits_BP: Tensor, *, priors: Priors, objects: Objects
) -> Assignment:
    """Assign priors to objects by what the network predicts there.

    An object's candidates are the 3x3 cells around its centre on each feature map. Its k is the sum of the
    ten highest IoUs that its candidates predict, at least one, and the k cheapest candidates become positive;
    a prior that several objects want goes to the one to which it is cheapest. The cost is the cross-entropy
    of the class scores (times objectness, under a root), plus three times the negative logarithm of the IoU.

    The published code sums the IoUs of the candidates of *all* objects to find k; here an object counts its
    own. So nothing grows with objects times priors, and no object is left out however many there are.

    Args:
        boxes_BP4: predicted boxes in pixels of the view.
        class_logits_BPC: of each class.
        object_logits_BP: of there being an object.
        priors: the points, in the middle of their cells.
        objects: of the batch; centres lie inside the views.

    """
    candidates, valid = _candidates(priors, objects)  # (M, 9 * levels)
    rows = objects.images[:, None]
    iou = paired_iou(boxes_BP4[rows, candidates].float(), objects.boxes[:, None])
    class_cost = _class_cost(
        class_logits_BPC[rows, candidates], object_logits_BP[rows, candidates], objects.labels
    )
    cost = class_cost - IOU_COST * torch.log(iou + 1e-8)

    most = min(MOST_PRIORS, candidates.shape[1])
    k = iou.masked_fill(~valid, 0).topk(most, dim=1).values.sum(dim=1).int().clamp(min=1)
    order = cost.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1)
    number, candidate = torch.nonzero((rank < k[:, None]) & valid, as_tuple=True)

    images, prior = objects.images[number], candidates[number, candidate]
    count = len(priors.points)
    unique = one_object_each(
        images * count + prior, cost[number, candidate], number, count=count * len(boxes_BP4)
    )
    return Assignment(images[unique], prior[unique], number[unique], iou[number, candidate][unique])


def _candidates(priors: Priors, objects: Objects) -> tuple[Tensor, Tensor]:
    """The priors of the 3x3 cells around each object's centre, and which exist: both (M, 9 * levels)."""
    centre = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
    candidates, valid = [], []
    step = torch.arange(-1, 2, device=centre.device)
    for height, width, stride, first in priors.levels:
        cell = (centre / stride).floor().long()
        x, y = cell[:, :1, None] + step, cell[:, 1:, None] + step[:, None]  # (M, 1, 3) and (M, 3, 1)
        x, y = (side.expand(-1, 3, 3).flatten(1) for side in (x, y))
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = first + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        distance = (priors.points[index] - centre[:, None]).abs().amax(dim=2)
        candidates.append(index)
        valid.append(inside & (distance < RADIUS * stride))
    return torch.cat(candidates, dim=1), torch.cat(valid, dim=1)


def _class_cost(class_logits_MKC: Tensor, object_logits_MK: Tensor, labels_M: Tensor) -> Tensor:
    """Binary cross-entropy of √(class score * objectness), summed over the classes.

    Not PyTorch's, which stops a GPU where a network has diverged to scores that are not numbers.
    """
    score = (class_logits_MKC.float().sigmoid() * object_logits_MK.float().sigmoid()[..., None]).sqrt()
    no = (1 - score).log().clamp(min=-100)
    own = labels_M[:, None, None].expand(*score.shape[:2], 1)
    yes = score.gather(2, own).log().clamp(min=-100)
    return no.gather(2, own)[..., 0] - yes[..., 0] - no.sum(dim=2)
