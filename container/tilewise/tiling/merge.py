"""Detections of an image's views -> detections of the image: each object once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tilewise.arrays import Bool, Float64, Floats, Int64
from tilewise.bitmaps import Bitmaps
from tilewise.boxes import area, intersection
from tilewise.instances import Instances
from tilewise.masks import bitmaps_in
from tilewise.tiling.merge_masks import Pieces, masks_agree
from tilewise.tiling.neighbours import near_pairs
from tilewise.tiling.spec import MergeRule
from tilewise.views.view import View

TOUCH = 3.0
"""A box that ends less than so many pixels of the view before an inner border is cut by it."""
FRAGMENT_SHARE = 0.5
"""A fragment is absorbed by a box that holds more than this share of its area."""
FRAGMENT_WEIGHT = 0.5
"""A fragment's score counts this much where it competes: whole boxes are believed rather."""
FINER = 1.5
"""A view that shows an object so many times as large shows its outline better."""
MIRRORED_IOU = 0.55
"""The IoU above which boxes of a view and of its mirror image are one object, where a lower one is asked for.

Both show all of the view: what lies closely beside an object is not the same object cut off by a border.
"""
_ROUNDS = 32


def cut_sides(boxes_N4: Floats, view: View, *, width: int, height: int) -> Bool:
    """Which sides of the boxes are cut by the view's window: they touch a border that lies inside the image.

    Args:
        boxes_N4: in pixels of the view.
        view: where they were found.
        width: pixels of the image.
        height: pixels of the image.

    Returns:
        (N, 4) bool: left, top, right, bottom.

    """
    x0, y0, x1, y1 = view.window
    inner = np.array([x0 > 0, y0 > 0, x1 < width, y1 < height])
    far = np.array(view.size, boxes_N4.dtype)
    touches = np.concatenate([boxes_N4[:, :2] < TOUCH, boxes_N4[:, 2:] > far - TOUCH], axis=1)
    cut: Bool = touches & inner
    return cut


def merge_detections(
    detections: Instances, view_N: Int64, cut_N4: Bool, *, rule: MergeRule, threshold: float
) -> Instances:
    """What :func:`merge_with_masks` says of detections without masks."""
    ones = np.ones(len(detections))
    return merge_with_masks(
        detections, view_N, cut_N4, window_N=view_N, scale_N=ones, rule=rule, threshold=threshold
    )[0]


def merge_with_masks(
    detections: Instances,
    view_N: Int64,
    cut_N4: Bool,
    *,
    window_N: Int64,
    scale_N: Float64,
    rule: MergeRule,
    threshold: float,
) -> tuple[Instances, Pieces | None]:
    """Merge what the views of one image show into one list, in which each object stands once.

    - ``nms``: Azure AutoML's rule. Best score first, a box removes each lower one of the same class from
      *another* view whose IoU with it is above ``threshold``. (Boxes of one view had their own NMS.)
    - ``fragment``: the same, but a box that is cut by a border inside the image is a *fragment*: it competes
      with half its score, and is also removed by a box of another view that holds more than half of it and
      goes on beyond that border. Its IoU with the whole object may be small.
    - ``wbf``: as ``fragment``, and a box that remains becomes the mean, weighted by score, of itself and the
      whole boxes that it removed (after Solovyev et al. 2021; the score stays its own, since how many views
      show an object says nothing about it).

    Where detections have masks, boxes propose and masks confirm: boxes of crowded cells overlap that share no
    pixel. A fragment that remains gets the masks of all that it removed, too, and the box around them. A
    whole one has its own, or that of a whole one that a much finer view shows; with ``wbf`` the mean.

    Args:
        detections: in pixels of the image, from all views.
        view_N: (N,) int64, the view that each comes from.
        cut_N4: (N, 4) bool, see :func:`cut_sides`.
        window_N: (N,) int64, the window of each view: a view and its mirror image have the same, and their
            boxes are one object from an IoU of :data:`MIRRORED_IOU` on.
        scale_N: (N,) pixels of the view for one of the image.
        rule: see above.
        threshold: IoU.

    Returns:
        Those that remain, with their own fields, best first; equal scores in the order of ``detections``.
        What their masks are made of; None where they have none.

    """
    bitmaps = bitmaps_in(detections.fields)
    if not len(detections):
        return detections, Pieces.alone(detections)
    boxes, scores = detections.boxes.astype(np.float64), detections.scores.astype(np.float64)
    cut = cut_N4 if rule != "nms" else np.zeros((len(detections), 4), np.bool_)
    weight = np.where(cut.any(axis=1), FRAGMENT_WEIGHT, 1.0)
    order = np.argsort(-scores * weight, kind="stable")
    ranked = _Ranked(
        boxes[order], detections.labels[order], view_N[order], window_N=window_N[order], cut_N4=cut[order]
    )
    ranked.masks = None if bitmaps is None else bitmaps.select(order)
    winners, losers = _overlaps(ranked, threshold)
    kept = ~_removed(winners, losers, len(order))
    merged = boxes
    if rule == "wbf":
        merged = boxes.copy()
        merged[order] = _means(ranked, scores[order], winners, losers, kept)
    remaining = np.sort(order[kept])
    remaining = remaining[np.argsort(-scores[remaining], kind="stable")]
    found = replace(detections.select(remaining), boxes=merged[remaining].astype(np.float32))
    if bitmaps is None:
        return found, None
    members = _members(order, winners, losers, kept)
    is_cut: Bool = np.any(cut_N4, axis=1)
    chosen = [
        _chosen(each, members.get(each, []), is_cut, scale_N, mean=rule == "wbf")
        for each in remaining.tolist()
    ]
    return found, Pieces(bitmaps, chosen, detections.scores, is_cut[remaining])


def _members(order: Int64, winners: Int64, losers: Int64, kept: Bool) -> dict[int, list[int]]:
    """What each detection that remains has removed, best first; what several have, the best of them."""
    owner = np.full(len(order), len(order))
    decided = kept[winners] & ~kept[losers]
    np.minimum.at(owner, losers[decided], winners[decided])
    members: dict[int, list[int]] = {}
    for loser in np.flatnonzero(owner < len(order)).tolist():
        members.setdefault(int(order[owner[loser]]), []).append(int(order[loser]))
    return members


def _chosen(winner: int, removed: list[int], cut: Bool, scale: Float64, *, mean: bool) -> Int64:
    """Of which detections a mask is made: for a whole one of itself, or of the finest whole view of it."""
    if not removed or cut[winner]:
        return np.array([winner, *removed])
    whole = [each for each in removed if not cut[each]]
    if mean:
        return np.array([winner, *whole])
    finest = max([winner, *whole], key=lambda each: float(scale[each]))
    return np.array([finest if scale[finest] > FINER * scale[winner] else winner])


class _Ranked:
    """Boxes in the order in which they may remove others."""

    def __init__(self, boxes_N4: Float64, labels_N: Int64, view_N: Int64, *, window_N: Int64, cut_N4: Bool):
        self.boxes, self.labels, self.view, self.cut = boxes_N4, labels_N, view_N, cut_N4
        self.window = window_N
        self.fragment: Bool = np.any(cut_N4, axis=1)
        self.areas: Float64 = area(boxes_N4)
        self.masks: Bitmaps | None = None

    def __len__(self) -> int:
        return len(self.boxes)


def _overlaps(ranked: _Ranked, threshold: float) -> tuple[Int64, Int64]:
    """All pairs (winner, loser) of ranks of which the first removes the second, if it remains itself."""
    pairs = [np.zeros((2, 0), np.int64)]
    for first, second in near_pairs(ranked.boxes, ranked.labels, threshold, reaching_N=ranked.fragment):
        winner, loser = np.minimum(first, second), np.maximum(first, second)
        other_view = ranked.view[winner] != ranked.view[loser]
        winner, loser = winner[other_view], loser[other_view]
        one, other = ranked.boxes[winner], ranked.boxes[loser]
        common = intersection(one, other)
        union = ranked.areas[winner] + ranked.areas[loser] - common
        mirrored = ranked.window[winner] == ranked.window[loser]
        same = common > np.where(mirrored, max(threshold, MIRRORED_IOU), threshold) * union
        absorbed = ranked.fragment[loser] & (common > FRAGMENT_SHARE * ranked.areas[loser])
        if absorbed.any():
            beyond = np.concatenate([one[:, :2] < other[:, :2], one[:, 2:] > other[:, 2:]], axis=1)
            same |= absorbed & (beyond & ranked.cut[loser]).any(axis=1)
        winner, loser = winner[same], loser[same]
        if ranked.masks is not None:
            agree = masks_agree(ranked.masks, winner, loser)
            winner, loser = winner[agree], loser[agree]
        pairs.append(np.stack([winner, loser]))
    winners, losers = np.concatenate(pairs, axis=1)
    return winners, losers


def _removed(winners: Int64, losers: Int64, count: int) -> Bool:
    """Greedy, best first: a box removes its losers unless it has been removed itself. Returns (N,) bool.

    In each round those that nobody left can remove, remove theirs.
    """
    removed = np.zeros(count, np.bool_)
    for _ in range(_ROUNDS):
        if not len(winners):
            return removed
        threatened = np.zeros(count, np.bool_)
        threatened[losers] = True
        removed[losers[~threatened[winners]]] = True
        open_ = ~removed[winners] & ~removed[losers]
        winners, losers = winners[open_], losers[open_]
    for winner, rest in _by_winner(winners, losers):  # a long chain: one after the other
        if not removed[winner]:
            removed[rest] = True
    return removed


def _by_winner(winners: Int64, losers: Int64) -> Iterator[tuple[int, Int64]]:
    order = np.argsort(winners, kind="stable")
    winners, losers = winners[order], losers[order]
    each, starts = np.unique(winners, return_index=True)
    yield from zip(each.tolist(), np.split(losers, starts[1:]), strict=True)


def _means(ranked: _Ranked, scores: Float64, winners: Int64, losers: Int64, kept: Bool) -> Float64:
    """The boxes, where those that are kept are the mean of themselves and of the whole ones they removed."""
    owner = np.arange(len(ranked))
    decided = kept[winners] & ~ranked.fragment[losers]
    owner[~kept] = len(ranked)
    np.minimum.at(owner, losers[decided], winners[decided])
    member = np.flatnonzero(owner < len(ranked))
    weights = np.maximum(scores[member], 1e-12)
    total = np.bincount(owner[member], weights, len(ranked))
    sums = [
        np.bincount(owner[member], weights * ranked.boxes[member, side], len(ranked)) for side in range(4)
    ]
    means: Float64 = np.stack(sums, axis=1) / np.maximum(total, 1e-12)[:, None]
    # a box alone stays as it is, to the last bit
    alone = np.bincount(owner[member], minlength=len(ranked)) <= 1
    return np.where((kept & ~alone)[:, None], means, ranked.boxes)
