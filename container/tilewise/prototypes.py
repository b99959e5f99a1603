"""From what a network says of masks to those of instances: for every backend, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilewise.arrays import Array, Float32
from tilewise.bitmaps import Bitmaps
from tilewise.fields import Rows
from tilewise.instances import Instances
from tilewise.masks import MASKS
from tilewise.suppression import Limits, suppress

PROTOTYPES, STRIDE = 32, 4
"""How many maps of a view there are to mix, and how many of its pixels one of theirs is wide."""
MASK_SIDE = 28
PLANES = 5
"""What is mixed beside them: planes of a box's own coordinates, see :func:`planes`."""


def instances_of(values: Sequence[Array], limits: Limits) -> Instances:
    """What is left of a view's candidates after suppression.

    Args:
        values: boxes, scores and labels of the candidates; of a network with masks also the (K, 28, 28)
            masks of each, from 0 to 1; or the (K, prototypes and planes) coefficients of each, and the
            (prototypes, h, w) prototypes of the view.
        limits: what is kept.

    Returns:
        Best first; of a network with masks each with its own, a bitmap in its box.

    """
    boxes, scores, labels, *others = values
    if not others:
        return suppress(boxes, scores, labels, limits=limits)
    of_each, *prototypes = others
    kept = suppress(boxes, scores, labels, limits=limits, fields={MASKS: Rows(of_each)})
    rows = kept.fields[MASKS]
    assert isinstance(rows, Rows)
    if prototypes:
        masks = mixed_masks(prototypes[0], kept.boxes, np.asarray(rows.values))
    else:
        masks = np.round(255 * np.asarray(rows.values)).astype(np.uint8)
    known = np.ones(len(kept), np.bool_)
    return Instances(kept.boxes, kept.scores, kept.labels, {MASKS: Bitmaps(masks, kept.boxes, known)})


def mixed_masks(prototypes_CHW: Float32, boxes_N4: Float32, coefficients_NK: Float32) -> Array:
    """The masks of boxes, (N, 28, 28) of 255, at the centres of the cells of each box.

    Prototypes are mixed first, where the box is, and the one map that this makes is looked at between its
    pixels: both are linear, and so of a small object little has to be computed.
    """
    steps = (np.arange(MASK_SIDE) + 0.5) / MASK_SIDE
    own = np.tensordot(coefficients_NK[:, PROTOTYPES:], planes(steps), axes=1)
    height, width = prototypes_CHW.shape[1:]
    for logits, mix, (x0, y0, x1, y1) in zip(own, coefficients_NK, boxes_N4.tolist(), strict=True):
        left, across = _between(x0 + steps * (x1 - x0), width)
        top, down = _between(y0 + steps * (y1 - y0), height)
        part = prototypes_CHW[:, top : top + down.shape[1], left : left + across.shape[1]]
        logits += down @ np.tensordot(mix[:PROTOTYPES], part, axes=1) @ across.T
    masks: Array = np.round(255 / (1 + np.exp(-own.clip(-50, 50)))).astype(np.uint8)
    return masks


def planes(steps: Array) -> Float32:
    """One, u, v, and what is inside of half an ellipse along each, over a box: (5, 28, 28)."""
    u = np.broadcast_to(2 * steps - 1, (len(steps), len(steps)))
    v = u.T
    return np.stack([np.ones_like(u), u, v, 0.5 - u**2, 0.5 - v**2]).astype(np.float32)


def _between(places: Array, limit: int) -> tuple[int, Float32]:
    """Along one side: the first pixel of the prototypes that places lie at, and how much each counts."""
    exact = (places / STRIDE - 0.5).clip(0, limit - 1)
    first = int(exact.min())
    count = int(np.ceil(exact.max())) - first + 1
    weights = (1 - np.abs(exact[:, None] - first - np.arange(count))).clip(min=0)
    return first, weights.astype(np.float32)
