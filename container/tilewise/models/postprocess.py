"""From a one-stage network's outputs to detections, for the whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from tilewise.instances import Instances

NMS_BOXES = {"cpu": 256, "cuda": 4096}
"""About so many boxes go through one suppression; whole classes of images, so it may be more.

A CPU takes time by the square of their number, a GPU for each call.
"""


class Limits(NamedTuple):
    """What is kept: scores above a threshold, so many candidates before suppression, so many boxes after."""

    score_threshold: float
    nms_iou_threshold: float
    candidates: int
    detections: int


def logit(score: float) -> float:
    """The logit of a score, infinite at 0 and 1."""
    return -math.inf if score <= 0 else math.inf if score >= 1 else math.log(score / (1 - score))


class Candidates(NamedTuple):
    """Detections of a batch before suppression: for each its image, prior, class (0-based) and score."""

    images: Tensor
    priors: Tensor
    classes: Tensor
    scores: Tensor


def best_of_each_group(scores_M: Tensor, groups_M: Tensor, most: int) -> Tensor:
    """Indices of the ``most`` highest scores of each group, by group, then from the best."""
    order = scores_M.argsort(descending=True, stable=True)
    order = order[groups_M[order].argsort(stable=True)]
    groups = groups_M[order]
    first = torch.searchsorted(groups, groups)  # where the group of each begins
    best: Tensor = order[torch.arange(len(groups), device=groups.device) - first < most]
    return best


def candidates_of(scores_BNC: Tensor, threshold: float, most: int, *, by_class: bool = False) -> Candidates:
    """The scores above a threshold, at most ``most`` of an image, or of a class of an image.

    Scores may be logits, with a threshold of their kind.
    """
    images, priors, classes = torch.nonzero(scores_BNC > threshold, as_tuple=True)
    scores = scores_BNC[images, priors, classes]
    groups = images * scores_BNC.shape[2] + classes if by_class else images
    best = best_of_each_group(scores, groups, most)
    return Candidates(images[best], priors[best], classes[best], scores[best])


def suppress(
    candidates: Sequence[Candidates],
    boxes: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    limits: Limits,
    smallest: float = 0.0,
) -> list[Instances]:
    """Non-maximum suppression within the classes of each image.

    torchvision's ``batched_nms`` on each image gives the same; it suppresses one class after the other where
    there are many boxes. Here classes and images are moved apart, in double precision, in which coordinates
    stay exact: what is found in an image does not depend on its neighbours.

    Args:
        candidates: of one or several feature maps.
        boxes: (M, 4) for each of ``candidates``, in pixels of the view; they are clipped to it.
        sizes: (height, width) of each view.
        limits: the IoU threshold and the number of boxes of a view.
        smallest: boxes with a smaller side, after clipping, are dropped first.

    Returns:
        What is left in each view, best first.

    """
    images, _, classes, scores = (torch.cat(parts) for parts in zip(*candidates, strict=True))
    all_boxes = _clip(torch.cat(list(boxes)), images, sizes)
    if smallest:
        large = torch.nonzero(((all_boxes[:, 2:] - all_boxes[:, :2]) >= smallest).all(dim=1)).flatten()
        images, classes, scores, all_boxes = (each[large] for each in (images, classes, scores, all_boxes))
    groups = images * (classes.max() + 1) + classes if len(classes) else images
    moved = all_boxes.double() + groups[:, None].double() * (2 * max(map(max, sizes)) + 1)
    exact = scores.double()
    keep_by_group = [
        piece[nms(moved[piece], exact[piece], limits.nms_iou_threshold)]
        for piece in _pieces(groups, NMS_BOXES.get(groups.device.type, NMS_BOXES["cpu"]))
    ]
    keep = torch.cat(keep_by_group) if keep_by_group else images
    keep = keep[best_of_each_group(scores[keep], images[keep], limits.detections)]
    counts = torch.bincount(images[keep], minlength=len(sizes)).tolist()
    columns = (tensor[keep].split(counts) for tensor in (all_boxes, scores, classes))
    return [Instances(*parts) for parts in zip(*columns, strict=True)]


def _clip(boxes_M4: Tensor, images_M: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    edges = torch.tensor([(width, height, width, height) for height, width in sizes], dtype=boxes_M4.dtype)
    edges = edges.to(boxes_M4.device, non_blocking=True)
    return torch.minimum(boxes_M4.clamp(min=0), edges[images_M])


def _pieces(groups_M: Tensor, boxes: int) -> list[Tensor]:
    """Indices of the boxes of a few groups together, about ``boxes`` in a piece."""
    counts = torch.bincount(groups_M)
    piece_of_group = (counts.cumsum(0) - counts) // boxes
    order = groups_M.argsort(stable=True)
    sizes = torch.bincount(piece_of_group[groups_M]).tolist()
    return [piece for piece in order.split(sizes) if len(piece)]
