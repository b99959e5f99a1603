"""Faster R-CNN's first stage: torchvision's region proposals, for all images of a batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from tilewise.models.detector import Target, on_ignored
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
            most = int(self.batch_size_per_image * self.positive_fraction)
            objects.append(draw(labels >= 1, most))
            rest = self.batch_size_per_image - objects[-1].sum()
            background.append(draw(labels == 0, self.batch_size_per_image, rest))
        return objects, background


def draw(mask_N: Tensor, most: int, count: Tensor | None = None) -> Tensor:
    """At random at most ``most`` of the true ones, and at most ``count`` if that is given: (N,) bool."""
    keys = torch.rand(mask_N.shape, device=mask_N.device).masked_fill(~mask_N, -1)
    best, index = keys.topk(min(most, len(keys)))
    drawn = best >= 0
    if count is not None:
        drawn &= torch.arange(len(best), device=best.device) < count
    return torch.zeros_like(mask_N).scatter_(0, index, drawn)


class RPN(RegionProposalNetwork):
    """torchvision's RPN; anchors on ignored boxes are neither object nor background to it."""

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
        found = suppress([candidates], [boxes], image_shapes, limits, self.min_size)
        return [each["boxes"] for each in found], [each["scores"] for each in found]

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, with label -1 (not sampled) for background anchors on an ignored box."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & on_ignored(anchor, target["ignored"])] = -1
        return labels, boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """As torchvision's, but zero, not NaN, where all anchors of the batch are ignored."""
        objects, background = (torch.cat(drawn) for drawn in self.fg_bg_sampler(labels))
        sampled = objects | background
        count = mean_over_processes(sampled.sum(), at_least=1)
        wanted = torch.cat(regression_targets)
        distance = F.smooth_l1_loss(pred_bbox_deltas, wanted, beta=1 / 9, reduction="none").sum(dim=1)
        entropy = F.binary_cross_entropy_with_logits(
            objectness.flatten(), torch.cat(labels), reduction="none"
        )
        return entropy.where(sampled, 0).sum() / count, distance.where(objects, 0).sum() / count
