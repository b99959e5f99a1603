"""RFLA: receptive fields decide which points are to find which object (Xu et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tilewise.boxes import sides

TOP, DECAY = 3, 0.9
"""An object's points in the first round, and what its fields shrink by for one more in the second."""

AT_ONCE = 64
"""Objects whose distances to all points are in memory at a time."""


def field_distance(points_P2: Tensor, radii_P: Tensor, boxes_M4: Tensor) -> Tensor:
    """Receptive field distance 1 / (1 + KL(field ‖ box)) of all pairs (sections 3.2 and 3.3): (M, P).

    A point's field is the Gaussian N(point, radius² I), a box N(centre, diag(w²/4, h²/4)).
    """
    centres, spans = (boxes_M4[:, :2] + boxes_M4[:, 2:]) / 2, sides(boxes_M4).clamp(min=1e-3)
    divergence = torch.zeros((len(boxes_M4), len(points_P2)), device=points_P2.device) - 1
    for axis in (0, 1):
        half = spans[:, axis, None] / 2
        apart = (points_P2[:, axis] - centres[:, axis, None]) / half
        ratio = radii_P / half
        divergence += 0.5 * (apart.square() + ratio.square()) - ratio.log()
    return 1 / (1 + divergence)


@torch.no_grad()
def rfla(points_P2: Tensor, strides_P: Tensor, boxes_M4: Tensor, *, fields: Mapping[int, float]) -> Tensor:
    """The object that each point is to find: (P,) int64, -1 for none (section 3.4).

    First each object has the three points of the highest score; a point that several want goes to the one
    with which it scores highest. Then, with fields a tenth smaller, each object's best point is added, where
    that is free. Even the smallest object has points so, unless others beside it take them all.

    Args:
        points_P2: x and y in pixels of the view.
        strides_P: of their maps.
        boxes_M4: of the objects of one image.
        fields: by its stride, the side of a map's theoretical receptive field in pixels.

    """
    matches = torch.full((len(points_P2),), -1, device=points_P2.device)
    if not len(boxes_M4):
        return matches
    radii = _radii(strides_P, fields)
    first = _claimed(points_P2, radii, boxes_M4, TOP)
    second = _claimed(points_P2, DECAY * radii, boxes_M4, 1)
    return torch.where(first >= 0, first, second)


def rfla_anchors(
    anchors_A4: Tensor, strides_A: Tensor, boxes_M4: Tensor, *, fields: Mapping[int, float], per_point: int
) -> tuple[Tensor, Tensor]:
    """The same where each point has several anchors: the one whose shape is most like the object's is taught.

    RFLA has one anchor a point. The others of a point that finds an object are neither object nor background.

    Args:
        anchors_A4: of one view, those of a point after each other and around it.
        strides_A: of their maps.
        boxes_M4: of the objects of one image.
        fields: see :func:`rfla`.
        per_point: anchors.

    Returns:
        (A,) int64, the object that each anchor is to find, -1 for none; (A,) bool, which are neither.

    """
    by_point = anchors_A4.unflatten(0, (-1, per_point))
    points = (by_point[:, 0, :2] + by_point[:, 0, 2:]) / 2
    matches = rfla(points, strides_A[::per_point], boxes_M4, fields=fields)
    if not len(boxes_M4):
        none = torch.full((len(anchors_A4),), -1, device=anchors_A4.device)
        return none, torch.zeros_like(none, dtype=torch.bool)
    own = sides(boxes_M4)[matches.clamp(min=0)][:, None]
    shared = torch.minimum(sides(by_point), own).prod(dim=2)
    united = sides(by_point).prod(dim=2) + own.prod(dim=2) - shared
    best = (shared / united.clamp(min=1e-6)).argmax(dim=1, keepdim=True)
    chosen = torch.zeros_like(shared, dtype=torch.bool).scatter_(1, best, value=True)
    found = (matches >= 0)[:, None]
    of_anchor = torch.where(chosen, matches[:, None], -1)
    return of_anchor.flatten(), (found & ~chosen).flatten()


def _claimed(points_P2: Tensor, radii_P: Tensor, boxes_M4: Tensor, count: int) -> Tensor:
    """Each point's object, of those that have it among their ``count`` best; -1 for none."""
    best = torch.zeros(len(points_P2), device=points_P2.device)
    owner = torch.full((len(points_P2),), -1, device=points_P2.device)
    for start in range(0, len(boxes_M4), AT_ONCE):
        scores = field_distance(points_P2, radii_P, boxes_M4[start : start + AT_ONCE])
        top = scores.topk(min(count, scores.shape[1]), dim=1)
        claims = torch.zeros_like(scores).scatter_(1, top.indices, top.values)
        highest, number = claims.max(dim=0)
        owner = torch.where(highest > best, number + start, owner)
        best = torch.maximum(best, highest)
    return owner


def _radii(strides_P: Tensor, fields: Mapping[int, float]) -> Tensor:
    """Of the effective fields: half of the theoretical ones' radii."""
    radii = torch.zeros_like(strides_P)
    for stride, side in fields.items():
        radii = torch.where(strides_P == stride, side / 4, radii)
    return radii
