"""Faster R-CNN's second stage: torchvision's heads of regions, for all images of a batch at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import box_iou

from tilewise.models.box_learning import BoxLearning
from tilewise.models.matching import BoxCoder, Target, on_ignored, true_ones
from tilewise.models.rpn import Sampler
from tilewise.models.totals import mean_over_processes

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
MATCHING_IOU = 0.5


class SinglePrecisionPredictor(FastRCNNPredictor):
    """torchvision's, whose outputs become boxes: in float32, whatever the layers are in."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box regression of each region."""
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class RegionSample(NamedTuple):
    """What the regions of a batch, image by image, are taught.

    Attributes:
        matches: (R,) int64, the index of each region's object among those of its image; 0 without one.
        labels: (R,) int64; 0 is background.
        deltas: (R, 4) the regression that leads from a region to its object.
        sizes: (R,) of their objects, √area in pixels of the image; None where they do not matter.

    """

    matches: Tensor
    labels: Tensor
    deltas: Tensor
    sizes: Tensor | None = None


class RegionOutputs(NamedTuple):
    """What the second stage says of each of the R regions of a batch, image by image.

    Attributes:
        regions: of each image (R of it, 4) in pixels of the view: proposals, or drawn to learn from.
        logits: (R, classes) float32, background first.
        deltas: (R, 4 * classes) float32, box regression for each class.
        sample: what is learnt from; None where there are no targets.

    """

    regions: list[Tensor]
    logits: Tensor
    deltas: Tensor
    sample: RegionSample | None


class RoIHeads(nn.Module):
    """torchvision's second stage; proposals on ignored boxes are neither object nor background to it.

    Args:
        box_roi_pool: feature maps and regions -> a small map of each region.
        box_head: small maps -> features of the regions.
        box_predictor: features -> class logits and box regression.

    """

    def __init__(self, box_roi_pool: nn.Module, box_head: nn.Module, box_predictor: nn.Module):
        super().__init__()
        self.box_roi_pool, self.box_head, self.box_predictor = box_roi_pool, box_head, box_predictor
        self.matcher = Matcher(MATCHING_IOU, MATCHING_IOU)
        self.box_coder, self.sampler = BoxCoder(BOX_WEIGHTS), Sampler(512, 0.25)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> RegionOutputs:
        """Look at the proposals; with targets at some that are drawn at random, the objects among them."""
        regions, sample = proposals, None
        if targets is not None:
            regions, sample = self.draw_sample(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, regions, sizes))
        logits, deltas = self.box_predictor(pooled)
        return RegionOutputs(regions, logits, deltas, sample)

    def draw_sample(
        self, proposals: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], RegionSample]:
        """Regions to learn from: proposals and objects, with their matches, labels and regression.

        As torchvision's, but a GPU is asked once how many there are, and not for each image.
        """
        regions = [
            torch.cat([each, target["boxes"]]) for each, target in zip(proposals, targets, strict=True)
        ]
        pairs = zip(regions, targets, strict=True)
        matches, labels, object_boxes = zip(
            *(self.match(each, target) for each, target in pairs), strict=True
        )
        samples = [objects | rest for objects, rest in zip(*self.sampler(list(labels)), strict=True)]
        counts = torch.stack([each.sum() for each in samples]).tolist()
        rows = true_ones(torch.cat(samples), sum(counts))
        sampled_regions, match, label, box = (
            torch.cat(parts)[rows] for parts in (regions, matches, labels, object_boxes)
        )
        sizes = None
        if "sizes" in targets[0]:
            of_image = [
                torch.cat([target["sizes"], label.new_ones(1, dtype=box.dtype)]) for target in targets
            ]
            sizes = torch.cat([of[index] for of, index in zip(of_image, matches, strict=True)])[rows]
        sample = RegionSample(match, label, self.box_coder.encode_single(box, sampled_regions), sizes)
        return list(sampled_regions.split(counts)), sample

    def match(self, regions_N4: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
        """The objects that regions of an image match, by index (N,), label (N,) and box (N, 4).

        The label is 0 for background, and -1 for background on an ignored box, which is not drawn. Without a
        match the index is 0 and the box any.
        """
        boxes, labels = target["boxes"], target["labels"]
        if len(boxes):
            matches = self.matcher(box_iou(boxes, regions_N4))
            index = matches.clamp(min=0)
            label = labels[index].where(matches >= 0, 0)
        else:
            boxes = boxes.new_zeros(1, 4)
            index = label = torch.zeros(len(regions_N4), dtype=torch.int64, device=regions_N4.device)
        label = label.masked_fill((label == 0) & on_ignored(regions_N4, target["ignored"]), -1)
        return index, label, boxes[index]


def region_losses(
    logits: Tensor, deltas: Tensor, sample: RegionSample, *, learning: BoxLearning
) -> dict[str, Tensor]:
    """Cross-entropy of the regions' classes and smooth L1 of the objects' boxes, over all regions.

    They are torchvision's; zero, not NaN, where all proposals of the batch are ignored.

    Args:
        logits: (R, C) of classes, background first.
        deltas: (R, 4 C) for each class.
        sample: what they are to be.
        learning: what a job chooses of it.

    """
    labels = sample.labels
    count = mean_over_processes(logits.new_full((), len(labels)), at_least=1)
    of_class = deltas.unflatten(1, (-1, 4)).gather(1, labels[:, None, None].expand(-1, 1, 4)).squeeze(1)
    distance = F.smooth_l1_loss(of_class, sample.deltas, beta=1 / 9, reduction="none").sum(dim=1)
    if sample.sizes is not None:
        sizes = sample.sizes
        distance = learning.from_distance(distance, lambda: sizes, labels > 0)
    return {
        "loss_classifier": F.cross_entropy(logits, labels, reduction="sum") / count,
        "loss_box_reg": distance.where(labels > 0, 0).sum() / count,
    }
