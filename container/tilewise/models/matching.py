"""What torchvision's networks are taught, for all images of a batch at once.

Whatever they would ask of a GPU (whether a box has no area, how many anchors are matched) stops it until the
answer is there: here nothing does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher
from torchvision.models.detection._utils import encode_boxes
from torchvision.ops import box_iou

from tilewise.models.detector import Target, on_ignored


class OneStage:
    """Forward pass of a network of torchvision's, to be named before it among a class's bases.

    In training torchvision's looks for a box without area in every image. Samples have none.
    """

    transform: Any
    backbone: Any
    head: Any
    anchor_generator: Any
    training: bool

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """As torchvision's: losses in training, else what is found in each image."""
        if not self.training:
            return super().forward(images)  # type: ignore[misc]
        batch, targets = self.transform(images, targets)
        maps = list(self.backbone(batch.tensors).values())
        outputs = self.head(maps)
        return self.losses(targets, outputs, self.anchor_generator(batch, maps), maps)

    def losses(
        self, targets: list[Target], outputs: dict[str, Tensor], anchors: list[Tensor], maps: list[Tensor]
    ) -> dict[str, Tensor]:
        """What the network learns from, given its outputs, each image's anchors and the feature maps."""
        return self.compute_loss(targets, outputs, anchors)  # type: ignore[attr-defined, no-any-return]


class Matcher(TorchvisionMatcher):
    """torchvision's, which picks the anchors that are the best of an object, and so waits for how many."""

    def set_low_quality_matches_(
        self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor
    ) -> None:
        """As torchvision's: an anchor that is the best of some object is matched with its own best object."""
        best = match_quality_matrix.max(dim=1, keepdim=True).values
        chosen = (match_quality_matrix == best).any(dim=0)
        matches.copy_(torch.where(chosen, all_matches, matches))


def match(matcher: TorchvisionMatcher, targets: Sequence[Target], anchors: Sequence[Tensor]) -> list[Tensor]:
    """Of each image the box that each anchor is matched with: (A,) int64, negative for none."""
    return [
        matcher(box_iou(target["boxes"], each))
        if len(target["boxes"])
        else torch.full((len(each),), matcher.BELOW_LOW_THRESHOLD, device=each.device)
        for target, each in zip(targets, anchors, strict=True)
    ]


def anchors_on_ignored(targets: Sequence[Target], anchors: Sequence[Tensor]) -> Tensor:
    """Which anchors stand on an ignored box of their image: (B, A) bool. See :func:`on_ignored`."""
    pairs = zip(anchors, targets, strict=True)
    return torch.stack([on_ignored(each, target["ignored"]) for each, target in pairs])


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
    nothing = F.pad(targets[0]["boxes"].new_ones(1, 2), (2, 0))  # 0, 0, 1, 1
    boxes = torch.cat([*(target["boxes"] for target in targets), nothing])
    first = torch.tensor([0, *accumulate(counts[:-1])]).to(matches_BA.device, non_blocking=True)
    foreground = matches_BA >= 0
    own = torch.where(foreground, matches_BA + first[:, None], sum(counts))
    return Matched(foreground, labels[own], boxes[own])


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
