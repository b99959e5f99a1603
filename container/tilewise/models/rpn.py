"""Faster R-CNN's first stage: torchvision's region proposals, for all images of a batch at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from tilewise.models.matching import BoxCoder, Matcher, Target, on_ignored
from tilewise.models.postprocess import Candidates, Limits, suppress
from tilewise.models.totals import mean_over_processes


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

    """

    objects: Tensor
    background: Tensor
    labels: Tensor
    deltas: Tensor


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

    """

    def __init__(self, anchor_generator: nn.Module, head: nn.Module, proposals: int):
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

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None = None
    ) -> RPNOutputs:
        """Proposals in a batch, and with targets what is to be learnt from; that is drawn at random."""
        maps = list(features.values())
        by_level = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        counts = [each[0].numel() for each in by_level[0]]
        objectness, deltas = concat_box_prediction_layers(*by_level)
        boxes = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = self.filter_proposals(boxes, objectness, images.image_sizes, counts)
        sample = None if targets is None else self.draw_sample(anchors, targets)
        return RPNOutputs(objectness, deltas, proposals, sample)

    def draw_sample(self, anchors: list[Tensor], targets: list[Target]) -> AnchorSample:
        """Match each image's anchors with its objects, and draw from both kinds."""
        labels, boxes = self.assign_targets_to_anchors(anchors, targets)
        box_targets = self.box_coder.encode_single(torch.cat(boxes), torch.cat(anchors))
        objects, background = (torch.cat(drawn) for drawn in self.fg_bg_sampler(labels))
        return AnchorSample(objects, background, torch.cat(labels), box_targets)

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's: the best of each level, suppressed within it, and the best of those."""
        images, device = len(proposals), proposals.device
        logits = objectness.detach().reshape(images, -1)
        best = self._get_top_n_idx(logits, num_anchors_per_level)
        kept = torch.tensor([min(self.pre_nms_top_n(), count) for count in num_anchors_per_level])
        levels = torch.arange(len(kept)).repeat_interleave(kept).to(device, non_blocking=True)
        candidates = Candidates(
            images=torch.arange(images, device=device)[:, None].expand_as(best).flatten(),
            priors=best.flatten(),
            classes=levels.expand_as(best).flatten(),
            scores=logits.gather(1, best).sigmoid().flatten(),
        )
        boxes = proposals[candidates.images, candidates.priors]
        limits = Limits(self.score_thresh, self.nms_thresh, len(best), self.post_nms_top_n())
        best_proposals = suppress([candidates], [boxes], image_shapes, limits, self.min_size)
        return [each.boxes for each in best_proposals], [each.scores for each in best_proposals]

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, with label -1 (not sampled) for background anchors on an ignored box."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & on_ignored(anchor, target["ignored"])] = -1
        return labels, boxes


def rpn_losses(objectness: Tensor, deltas: Tensor, sample: AnchorSample) -> dict[str, Tensor]:
    """Cross-entropy of the drawn anchors' objectness and smooth L1 of the objects' boxes.

    They are torchvision's; zero, not NaN, where all anchors of the batch are ignored.
    """
    sampled = sample.objects | sample.background
    count = mean_over_processes(sampled.sum(), at_least=1)
    distance = F.smooth_l1_loss(deltas, sample.deltas, beta=1 / 9, reduction="none").sum(dim=1)
    entropy = F.binary_cross_entropy_with_logits(objectness.flatten(), sample.labels, reduction="none")
    return {
        "loss_objectness": entropy.where(sampled, 0).sum() / count,
        "loss_rpn_box_reg": distance.where(sample.objects, 0).sum() / count,
    }
