"""What the anchors of torchvision's networks are taught, for all images of a batch at once.

Whatever they would ask of a GPU (whether a box has no area, how many anchors are matched) stops it until the
answer is there: here nothing does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.models.detection._utils import encode_boxes
from torchvision.ops import box_iou

from tilewise.boxes import area, intersection
from tilewise.models.box_learning import BoxLearning, PositiveCounts, nwd
from tilewise.targets import Targets

Target = dict[str, Tensor]
"""An image's targets in torchvision's form: ``boxes`` and ``labels`` of objects; ``ignored`` boxes apart."""


def split_ignored(targets: Sequence[Targets[Tensor]], first_label: int = 0) -> list[Target]:
    """Objects and ignored boxes apart, labels counted from ``first_label``: from 1 where background is 0."""
    return [_split(each, first_label) for each in targets]


def _split(target: Targets[Tensor], first_label: int) -> Target:
    labels = target.labels + first_label
    if not target.ignored.any():
        return {"boxes": target.boxes, "labels": labels, "ignored": target.boxes[:0]}
    kept, ignored = (
        torch.nonzero(each).flatten().to(labels.device, non_blocking=True)
        for each in (~target.ignored, target.ignored)
    )
    return {"boxes": target.boxes[kept], "labels": labels[kept], "ignored": target.boxes[ignored]}


def on_ignored(anchors_N4: Tensor, ignored_M4: Tensor) -> Tensor:
    """Which anchors stand on an ignored box, so that they must not be taught to be background.

    An anchor does when its IoU with the box is at least 0.3 (SNIPER's rule), or when at least half of the
    anchor lies in it (a crowd is larger than its members).

    Returns:
        (N,) bool.

    """
    if not len(ignored_M4):
        return torch.zeros(len(anchors_N4), dtype=torch.bool, device=anchors_N4.device)
    iou = box_iou(anchors_N4, ignored_M4)
    inside = intersection(anchors_N4[:, None], ignored_M4) / area(anchors_N4)[:, None].clamp(min=1e-6)
    on: Tensor = ((iou >= 0.3) | (inside >= 0.5)).any(dim=1)
    return on


def true_ones(mask_N: Tensor, count: int) -> Tensor:
    """Where a mask is true, in order: as ``nonzero``, without waiting for a GPU to say how many."""
    return (~mask_N).to(torch.uint8).argsort(stable=True)[:count]


class Matcher(TorchvisionMatcher):
    """torchvision's, which picks the anchors that are the best of an object, and so waits for how many."""

    def set_low_quality_matches_(
        self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor
    ) -> None:
        """As torchvision's: an anchor that is the best of some object is matched with its own best object."""
        best = match_quality_matrix.max(dim=1, keepdim=True).values
        low_quality = (match_quality_matrix == best).any(dim=0)
        matches.copy_(torch.where(low_quality, all_matches, matches))


def similarity(learning: BoxLearning) -> Callable[[Tensor, Tensor], Tensor]:
    """What objects and anchors are matched by: (M, 4) and (A, 4) -> (M, A), from 0 to 1."""
    if learning.assignment == "nwd":
        return partial(nwd, object_size=learning.object_size)
    overlap: Callable[[Tensor, Tensor], Tensor] = box_iou
    return overlap


def match(
    matcher: TorchvisionMatcher,
    targets: Sequence[Target],
    anchors_A4: Tensor,
    *,
    similar: Callable[[Tensor, Tensor], Tensor] = box_iou,
) -> Tensor:
    """Of each image the object that each anchor is matched with: (B, A) int64, negative for none."""
    return torch.stack(
        [
            matcher(similar(target["boxes"], anchors_A4))
            if len(target["boxes"])
            else torch.full((len(anchors_A4),), matcher.BELOW_LOW_THRESHOLD, device=anchors_A4.device)
            for target in targets
        ]
    )


def anchors_on_ignored(targets: Sequence[Target], anchors_A4: Tensor) -> Tensor:
    """Which anchors stand on an ignored box of each image: (B, A) bool. See :func:`on_ignored`."""
    return torch.stack([on_ignored(anchors_A4, target["ignored"]) for target in targets])


def of_matched(matches_BA: Tensor, values: Sequence[Tensor]) -> Tensor:
    """(B, A) a number of the object that each anchor is matched with, of each image's; 1 without one."""
    index = _object_of(matches_BA, [len(each) for each in values])
    return torch.cat([*values, values[0].new_ones(1)])[index]


def count_found(counts: PositiveCounts, matches_BA: Tensor, sizes: Sequence[Tensor]) -> None:
    """Count the objects that no anchor is matched with."""
    lengths = [len(each) for each in sizes]
    found = torch.zeros(sum(lengths) + 1, dtype=torch.bool, device=matches_BA.device)
    found.scatter_(0, _object_of(matches_BA, lengths).flatten(), value=True)
    counts.add(torch.cat(list(sizes)), found[:-1])


def _object_of(matches_BA: Tensor, counts: Sequence[int]) -> Tensor:
    """(B, A) the matched object among those of all images; their number without one."""
    first = torch.tensor([0, *accumulate(counts[:-1])]).to(matches_BA.device, non_blocking=True)
    return torch.where(matches_BA >= 0, matches_BA + first[:, None], sum(counts))


class Matched(NamedTuple):
    """What the anchors of a batch are matched with.

    Attributes:
        foreground: (B, A) bool: with an object.
        labels: (B, A) int64 of the objects; 0 elsewhere.
        boxes: (B, A, 4) of the objects, in pixels of the view; elsewhere some box that has an area.

    """

    foreground: Tensor
    labels: Tensor
    boxes: Tensor


def matched_objects(matches_BA: Tensor, targets: Sequence[Target]) -> Matched:
    """The objects at these indices of each image's; a negative index is none."""
    counts = [len(target["labels"]) for target in targets]
    # The objects of all images, and after them one that stands for none.
    labels = torch.cat([*(target["labels"] for target in targets), matches_BA.new_zeros(1)])
    no_object = F.pad(targets[0]["boxes"].new_ones(1, 2), (2, 0))  # 0, 0, 1, 1
    boxes = torch.cat([*(target["boxes"] for target in targets), no_object])
    object_of = _object_of(matches_BA, counts)
    return Matched(matches_BA >= 0, labels[object_of], boxes[object_of])


def class_targets(matched: Matched, classes: int) -> Tensor:
    """(B, A, C) float32: one for the class of an anchor's object, zero for all others and without one."""
    zeros = torch.zeros((*matched.labels.shape, classes), device=matched.labels.device)
    return zeros.scatter_(2, matched.labels[..., None], matched.foreground[..., None].float())


class BoxCoder(TorchvisionBoxCoder):
    """torchvision's, which sends its few numbers to a GPU each time, and waits until they are there."""

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """The regression that leads from proposals to boxes, both (N, 4): (N, 4)."""
        weights = torch.tensor(self.weights)  # on the CPU: its elements are numbers to a GPU
        deltas: Tensor = encode_boxes(reference_boxes, proposals, weights)
        return deltas

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, 4) moved by regressions (N, 4 C): (N, 4 C)."""
        boxes = boxes.to(rel_codes.dtype)[:, None]
        codes = rel_codes.unflatten(1, (-1, 4))
        sides = []
        for axis in (0, 1):
            length = boxes[..., axis + 2] - boxes[..., axis]
            centre = boxes[..., axis] + 0.5 * length
            middle = codes[..., axis] / self.weights[axis] * length + centre
            growth = (codes[..., axis + 2] / self.weights[axis + 2]).clamp(max=self.bbox_xform_clip)
            half = 0.5 * (growth.exp() * length)
            sides.append((middle - half, middle + half))
        (left, right), (top, bottom) = sides
        return torch.stack([left, top, right, bottom], dim=2).flatten(1)
