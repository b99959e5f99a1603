"""Faster R-CNN's second stage: torchvision's heads of regions, for all images of a batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads

from tilewise.models.detector import Target, on_ignored
from tilewise.models.postprocess import Candidates, Limits, suppress
from tilewise.models.totals import mean_over_processes

SMALLEST_SIDE = 0.01
"""In pixels; torchvision drops detections with a smaller one."""


class SinglePrecisionPredictor(FastRCNNPredictor):
    """torchvision's, whose outputs become boxes: in float32, whatever the layers are in."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box regression of each region."""
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class RoIHeads(TorchvisionRoIHeads):
    """torchvision's second stage; proposals on ignored boxes are neither object nor background to it."""

    _ignored: list[Tensor]

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], dict[str, Tensor]]:
        """As torchvision's, but with zero losses, not NaN, where all proposals of the batch are ignored."""
        if not self.training:
            found: tuple[list[Target], dict[str, Tensor]] = super().forward(features, proposals, image_shapes)
            return found
        regions, _, labels, wanted = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, regions, image_shapes))
        logits, regression = self.box_predictor(pooled)
        return [], region_losses(logits, regression, torch.cat(labels), torch.cat(wanted))

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[Target] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Regions to learn from: proposals and objects, with their matches, labels and regression.

        As torchvision's, but a GPU is asked twice how many there are, and not for each image.
        """
        assert targets is not None
        self._ignored = [target["ignored"] for target in targets]
        boxes = [target["boxes"] for target in targets]
        regions = self.add_gt_proposals(proposals, boxes)
        matches, labels = self.assign_targets_to_proposals(
            regions, boxes, [target["labels"] for target in targets]
        )
        own = [
            (box if len(box) else box.new_zeros(1, 4))[match]
            for box, match in zip(boxes, matches, strict=True)
        ]
        drawn = [objects | rest for objects, rest in zip(*self.fg_bg_sampler(labels), strict=True)]
        counts = torch.stack([each.sum() for each in drawn]).tolist()
        rows = torch.nonzero(torch.cat(drawn)).flatten()
        chosen, match, label, box = (torch.cat(parts)[rows] for parts in (regions, matches, labels, own))
        wanted = self.box_coder.encode_single(box, chosen)
        split = [list(each.split(counts)) for each in (chosen, match, label, wanted)]
        return split[0], split[1], split[2], split[3]

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, with label -1 (not sampled) for background proposals on an ignored box."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, proposal, ignored in zip(labels, proposals, self._ignored, strict=True):
            label[(label == 0) & on_ignored(proposal, ignored)] = -1
        return matched, labels

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes, scores and labels (from 1) of each image, as torchvision's."""
        scores = class_logits.softmax(dim=1)[:, 1:]
        rows, classes = torch.nonzero(scores > self.score_thresh, as_tuple=True)
        counts = torch.tensor([len(each) for each in proposals])
        images = torch.arange(len(counts)).repeat_interleave(counts).to(rows.device, non_blocking=True)
        deltas = box_regression.unflatten(1, (-1, 4))[rows, classes + 1]
        boxes = self.box_coder.decode_single(deltas, torch.cat(proposals)[rows])
        candidates = Candidates(images[rows], rows, classes, scores[rows, classes])
        limits = Limits(self.score_thresh, self.nms_thresh, len(rows), self.detections_per_img)
        found = suppress([candidates], [boxes], image_shapes, limits, SMALLEST_SIDE)
        return (
            [each["boxes"] for each in found],
            [each["scores"] for each in found],
            [each["labels"] + 1 for each in found],
        )


def region_losses(logits: Tensor, regression: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the regions' classes and smooth L1 of the objects' boxes, over all regions.

    Args:
        logits: (R, C) of classes, background first.
        regression: (R, 4 C) for each class.
        labels: (R,) int64; 0 is background.
        wanted: (R, 4) regression of an object's region.

    """
    objects = labels > 0
    count = mean_over_processes(logits.new_full((), len(labels)), at_least=1)
    of_class = regression.unflatten(1, (-1, 4)).gather(1, labels[:, None, None].expand(-1, 1, 4)).squeeze(1)
    distance = F.smooth_l1_loss(of_class, wanted, beta=1 / 9, reduction="none").sum(dim=1)
    return {
        "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
        "loss_box_reg": distance.where(objects, 0).sum() / count,
    }
