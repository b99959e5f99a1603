"""Faster R-CNN's first stage: torchvision's region proposals, for all images of a batch at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, _topk_min
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import nms

from tilewise.models.box_learning import BoxLearning
from tilewise.models.layers import pieces
from tilewise.models.matching import (
    BoxCoder,
    Matcher,
    Target,
    count_found,
    match,
    of_matched,
    on_ignored,
    similarity,
    true_ones,
)
from tilewise.models.postprocess import clip, edges_of
from tilewise.models.rfla import rfla_anchors
from tilewise.models.totals import mean_over_processes

PLAIN = BoxLearning()

NMS_BOXES = {"cpu": 256, "cuda": 4096}
"""About so many proposals go through one suppression; whole levels of images, so it may be more.

A CPU takes time by the square of their number, a GPU for each call.
"""


class SinglePrecisionRPNHead(RPNHead):
    """torchvision's, whose outputs become boxes: in float32, whatever the convolutions are in."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box regression of each feature map."""
        logits, deltas = super().forward(x)
        return [each.float() for each in logits], [each.float() for each in deltas]


class Sampler(BalancedPositiveNegativeSampler):
    """torchvision's; it never asks a GPU how many there are to draw from."""

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What is drawn from each image's labels.

        Args:
            matched_idxs: of each image (N,): from 1 on an object, 0 background, below neither.

        Returns:
            Of each image (N,) bool: the objects drawn, and the background.

        """
        objects, background = [], []
        for labels in matched_idxs:
            limit = int(self.batch_size_per_image * self.positive_fraction)
            objects.append(draw(labels >= 1, limit))
            rest = self.batch_size_per_image - objects[-1].sum()
            background.append(draw(labels == 0, self.batch_size_per_image, rest))
        return objects, background


def draw(mask_N: Tensor, limit: int, count: Tensor | None = None) -> Tensor:
    """At random at most ``limit`` of the true ones, and at most ``count`` if that is given: (N,) bool."""
    keys = torch.rand(mask_N.shape, device=mask_N.device).masked_fill(~mask_N, -1)
    best, index = keys.topk(min(limit, len(keys)))
    is_drawn = best >= 0
    if count is not None:
        is_drawn &= torch.arange(len(best), device=best.device) < count
    return torch.zeros_like(mask_N).scatter_(0, index, is_drawn)


class AnchorSample(NamedTuple):
    """What the anchors of a batch, image by image, are taught: all (B * A,), deltas (B * A, 4).

    Attributes:
        objects: bool, drawn among those that match an object.
        background: bool, drawn among those that match none.
        labels: float32, 1 for a match, 0 for none, below that neither.
        deltas: float32, the regression that leads from an anchor to its object.
        sizes: float32 of their objects, √area in pixels of the image; None where they do not matter.

    """

    objects: Tensor
    background: Tensor
    labels: Tensor
    deltas: Tensor
    sizes: Tensor | None = None


class RPNOutputs(NamedTuple):
    """What the first stage says of each anchor of a batch, image by image.

    Attributes:
        objectness: (B * A, 1) float32 logits.
        deltas: (B * A, 4) float32, box regression.
        proposals: of each image (P, 4) in pixels of the view, best first.
        sample: what is learnt from; None where there are no targets.

    """

    objectness: Tensor
    deltas: Tensor
    proposals: list[Tensor]
    sample: AnchorSample | None


class RPN(RegionProposalNetwork):
    """torchvision's RPN; anchors on ignored boxes are neither object nor background to it.

    Args:
        anchor_generator: of all feature maps.
        head: feature maps -> objectness and box regression.
        proposals: the most that are made of an image in evaluation, and taken of a feature map.
        fields: of the feature maps, for ``assignment=rfla``, see
            :func:`tilewise.models.fpn.receptive_fields`.

    Attributes:
        learning: what a job chooses of it.

    """

    learning = BoxLearning()

    def __init__(
        self, anchor_generator: nn.Module, head: nn.Module, proposals: int, fields: Mapping[int, float]
    ):
        most = {"training": 2000, "testing": proposals}
        super().__init__(
            anchor_generator,
            head,
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=most,
            post_nms_top_n=most,
            nms_thresh=0.7,
        )
        # torchvision's constructor takes none of these
        self.proposal_matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
        self.box_coder, self.fg_bg_sampler = BoxCoder((1.0, 1.0, 1.0, 1.0)), Sampler(256, 0.5)
        self.fields = fields

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None = None
    ) -> RPNOutputs:
        """Proposals in a batch, and with targets what is to be learnt from; that is drawn at random."""
        maps = list(features.values())
        by_level = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        counts = [each.shape[1] * each.shape[2] * each.shape[3] for each in by_level[0]]
        objectness, deltas = concat_box_prediction_layers(*by_level)
        boxes = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = self.filter_proposals(boxes, objectness, images.image_sizes, counts)
        sample = None
        if targets is not None:
            strides = strides_of(images.tensors.shape[2], [each.shape[2] for each in maps], counts)
            sample = self.draw_sample(anchors, targets, strides)
        return RPNOutputs(objectness, deltas, proposals, sample)

    def draw_sample(self, anchors: list[Tensor], targets: list[Target], strides_A: Tensor) -> AnchorSample:
        """Match each image's anchors with its objects, and draw from both kinds."""
        matches = self.match_anchors(anchors[0], targets, strides_A)
        labels, boxes = self._taught(matches, anchors, targets)
        sizes = None
        if "sizes" in targets[0]:
            of_image = [target["sizes"] for target in targets]
            sizes = of_matched(matches, of_image).flatten()
            if self.learning.counts:
                count_found(self.learning.counts, matches, of_image)
        box_targets = self.box_coder.encode_single(torch.cat(boxes), torch.cat(anchors))
        objects, background = (torch.cat(drawn) for drawn in self.fg_bg_sampler(labels))
        return AnchorSample(objects, background, torch.cat(labels), box_targets, sizes)

    def match_anchors(self, anchors_A4: Tensor, targets: list[Target], strides_A: Tensor) -> Tensor:
        """Of each image the object that each anchor is matched with: (B, A) int64, negative for none."""
        if self.learning.assignment != "rfla":
            return match(self.proposal_matcher, targets, anchors_A4, similar=similarity(self.learning))
        strides, per_point = (
            strides_A.to(anchors_A4.device),
            self.anchor_generator.num_anchors_per_location()[0],
        )
        found = []
        for target in targets:
            matches, neither = rfla_anchors(
                anchors_A4, strides, target["boxes"], fields=self.fields, per_point=per_point
            )
            found.append(matches.masked_fill(neither, self.proposal_matcher.BETWEEN_THRESHOLDS))
        return torch.stack(found)

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's: the best of each level, suppressed within it, and the best of those.

        It suppresses image by image and level by level. Here these are moved apart, in double precision, in
        which coordinates stay exact: what is proposed in an image does not depend on its neighbours.
        """
        if torch.jit.is_tracing():
            return self._traced_proposals(proposals, objectness, image_shapes[0], num_anchors_per_level)
        images, device = len(proposals), proposals.device
        logits = objectness.detach().reshape(images, -1)
        best = self._get_top_n_idx(logits, num_anchors_per_level)
        kept = [min(self.pre_nms_top_n(), count) for count in num_anchors_per_level] * images
        groups = torch.arange(len(kept)).repeat_interleave(torch.tensor(kept)).to(device, non_blocking=True)
        rows = torch.arange(images, device=device)[:, None].expand_as(best).flatten()
        boxes = proposals[rows, best.flatten()]
        boxes = torch.minimum(boxes.clamp(min=0), edges_of(image_shapes, boxes)[rows])
        large = ((boxes[:, 2:] - boxes[:, :2]) >= self.min_size).all(dim=1)
        # those that are too small come last, suppress nothing that is not, and are dropped
        scores = logits.gather(1, best).sigmoid().flatten().where(large, -1)
        moved = boxes.double() + groups[:, None].double() * (2 * max(map(max, image_shapes)) + 1)
        exact = scores.double()
        chosen = [
            piece.start + nms(moved[piece], exact[piece], self.nms_thresh)
            for piece in _pieces(kept, NMS_BOXES.get(device.type, NMS_BOXES["cpu"]))
        ]
        place = torch.cat(chosen) if chosen else rows
        of_best, counts = best_of_each_image(scores[place], rows[place], self.post_nms_top_n(), images)
        place = place[of_best]
        return list(boxes[place].split(counts)), list(scores[place].split(counts))

    def _traced_proposals(
        self, proposals: Tensor, objectness: Tensor, size: tuple[int, int], counts: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The same of a single view, in operations that an exported graph has for views of any size."""
        scores, boxes = objectness.flatten().sigmoid(), clip(proposals, [size])[0]
        chosen = []
        for level_scores, level_boxes in zip(pieces(scores, counts), pieces(boxes, counts), strict=True):
            best, index = level_scores.topk(_topk_min(level_scores, self.pre_nms_top_n(), 0))
            candidates = level_boxes[index]
            large = ((candidates[:, 2:] - candidates[:, :2]) >= self.min_size).all(dim=1)
            best = best.where(large, 0)
            place = nms(candidates, best, self.nms_thresh)
            chosen.append((best[place], candidates[place]))
        best, boxes = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        best, index = best.topk(_topk_min(best, self.post_nms_top_n(), 0))
        return [boxes[index]], [best]

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, with label -1 (not sampled) for background anchors on an ignored box."""
        matches = match(self.proposal_matcher, targets, anchors[0], similar=similarity(self.learning))
        return self._taught(matches, anchors, targets)

    def _taught(
        self, matches_BA: Tensor, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image the label of each anchor, and its object's box; any box where it has none."""
        labels, boxes = [], []
        for matches, anchor, target in zip(matches_BA, anchors, targets, strict=True):
            label = (matches >= 0).float()
            label[matches == self.proposal_matcher.BETWEEN_THRESHOLDS] = -1
            label[(label == 0) & on_ignored(anchor, target["ignored"])] = -1
            labels.append(label)
            found = len(target["boxes"])
            boxes.append(target["boxes"][matches.clamp(min=0)] if found else torch.zeros_like(anchor))
        return labels, boxes


def strides_of(side: int, sides: list[int], counts: list[int]) -> Tensor:
    """(A,) of each anchor the stride of its map, by a side of the batch and those of its maps."""
    strides = torch.tensor([2.0 ** round(math.log2(side / each)) for each in sides])
    return strides.repeat_interleave(torch.tensor(counts))


def best_of_each_image(scores_M: Tensor, rows_M: Tensor, most: int, images: int) -> tuple[Tensor, list[int]]:
    """The ``most`` highest scores of each image that are not negative.

    Returns:
        Their indices, by image, then from the best; and how many each image has.

    """
    order = scores_M.argsort(descending=True, stable=True)
    order = order[rows_M[order].argsort(stable=True)]
    rows = rows_M[order]
    first = torch.searchsorted(rows, rows)  # where the image of each begins
    is_best = (torch.arange(len(rows), device=rows.device) - first < most) & (scores_M[order] >= 0)
    of_image = rows[:, None] == torch.arange(images, device=rows.device)
    counts: list[int] = (of_image & is_best[:, None]).sum(dim=0).tolist()
    return order[true_ones(is_best, sum(counts))], counts


def _pieces(counts: list[int], boxes: int) -> list[slice]:
    """Groups of so many boxes, one after the other -> a few of them together, with about ``boxes`` boxes."""
    found: list[slice] = []
    for start, end in pairwise(accumulate(counts, initial=0)):
        if found and found[-1].start // boxes == start // boxes:
            found[-1] = slice(found[-1].start, end)
        else:
            found.append(slice(start, end))
    return [piece for piece in found if piece.stop > piece.start]


def rpn_losses(
    objectness: Tensor, deltas: Tensor, sample: AnchorSample, *, learning: BoxLearning = PLAIN
) -> dict[str, Tensor]:
    """Cross-entropy of the drawn anchors' objectness and smooth L1 of the objects' boxes.

    They are torchvision's; zero, not NaN, where all anchors of the batch are ignored.
    """
    sampled = sample.objects | sample.background
    count = mean_over_processes(sampled.sum(), at_least=1)
    distance = F.smooth_l1_loss(deltas, sample.deltas, beta=1 / 9, reduction="none").sum(dim=1)
    if sample.sizes is not None:
        sizes = sample.sizes
        distance = learning.from_distance(distance, lambda: sizes, sample.objects)
    entropy = F.binary_cross_entropy_with_logits(objectness.flatten(), sample.labels, reduction="none")
    return {
        "loss_objectness": entropy.where(sampled, 0).sum() / count,
        "loss_rpn_box_reg": distance.where(sample.objects, 0).sum() / count,
    }
