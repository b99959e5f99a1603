"""Mask R-CNN (He et al., ICCV 2017): Faster R-CNN with a mask of each region, through torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import nms

from tilewise.bitmaps import Bitmaps
from tilewise.instances import Instances
from tilewise.masks import MASKS, bitmaps_in
from tilewise.models.detector import Detector
from tilewise.models.faster_rcnn import (
    FasterRCNN,
    FasterRCNNCriterion,
    FasterRCNNOutputs,
    TwoStageDetector,
    build_two_stage,
)
from tilewise.models.mask_targets import mask_targets
from tilewise.models.postprocess import detections_of, edges_of
from tilewise.models.roi_align import RoIAlign
from tilewise.models.roi_heads import RegionOutputs
from tilewise.models.rpn import RPNOutputs
from tilewise.models.spec import DetectorSpec
from tilewise.models.totals import mean_over_processes
from tilewise.targets import Targets

MASK_SIDE, REGION_SIDE, CHANNELS = 28, 14, 256
MULTIPLE = 8
"""Masks are computed for multiples of so many regions: kernels of each number are made once, and kept."""

MOST_REGIONS = 128
"""At once in inference: more of them take longer, and more memory."""


class MaskOutputs(NamedTuple):
    """What the mask branch says of the regions that match an object.

    Attributes:
        logits: (P, classes, 28, 28) float32, of the classes without background.
        rows: (P,) int64, which of the batch's regions they are.
        sizes: (height, width) of each view.

    """

    logits: Tensor
    rows: Tensor
    sizes: Sequence[tuple[int, int]]


class MaskRCNNOutputs(NamedTuple):
    """What the network makes of a batch; see :class:`~tilewise.models.faster_rcnn.FasterRCNNOutputs`.

    Attributes:
        features, rpn, roi_heads: as there.
        masks: to learn from; None where there are no targets.

    """

    features: dict[str, Tensor]
    rpn: RPNOutputs
    roi_heads: RegionOutputs
    masks: MaskOutputs | None


class MaskBranch(nn.Module):
    """torchvision's mask branch: its modules are the second stage's, where published weights have them.

    Args:
        num_classes: without background.

    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.mask_roi_pool = RoIAlign(["0", "1", "2", "3"], output_size=REGION_SIDE, sampling_ratio=2)
        self.mask_head = MaskRCNNHeads(CHANNELS, (CHANNELS,) * 4, 1)
        self.mask_predictor = MaskRCNNPredictor(CHANNELS, CHANNELS, num_classes + 1)


class MaskRCNN(FasterRCNN):
    """torchvision's Mask R-CNN without what surrounds it."""

    def add_masks(self, branch: MaskBranch) -> None:
        """Give the second stage its mask branch."""
        for name, module in branch.named_children():
            self.roi_heads.add_module(name, module)

    def mask_logits(
        self, features: dict[str, Tensor], regions: list[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Of the regions of each view: (P, classes, 28, 28) float32, without background."""
        if torch.jit.is_tracing():
            return self._mask_logits(features, regions, sizes)
        count = sum(map(len, regions))
        more = regions[-1].new_zeros((-count % MULTIPLE, 4))
        return self._mask_logits(features, [*regions[:-1], torch.cat([regions[-1], more])], sizes)[:count]

    def _mask_logits(
        self, features: dict[str, Tensor], regions: list[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        heads: Any = self.roi_heads
        pooled = heads.mask_roi_pool(features, regions, list(sizes))
        logits: Tensor = heads.mask_predictor(heads.mask_head(pooled))
        return logits[:, 1:].float()

    def forward(
        self,
        batch_BCHW: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        targets: Sequence[Targets[Tensor]] | None = None,
    ) -> Any:
        """As :meth:`FasterRCNN.forward`; with targets also the masks of the regions that match an object."""
        found: FasterRCNNOutputs = super().forward(batch_BCHW, sizes, targets)
        sample = found.roi_heads.sample
        if sample is None:
            return MaskRCNNOutputs(*found, masks=None)
        height, width = batch_BCHW.shape[2:]
        sizes = list(sizes or [(height, width)] * len(batch_BCHW))
        matched = sample.labels > 0
        counts = torch.stack(
            [each.sum() for each in matched.split([len(r) for r in found.roi_heads.regions])]
        )
        rows = torch.nonzero(matched).flatten()
        regions = list(torch.cat(found.roi_heads.regions)[rows].split(counts.tolist()))
        return MaskRCNNOutputs(
            *found, masks=MaskOutputs(self.mask_logits(found.features, regions, sizes), rows, sizes)
        )


class MaskRCNNCriterion(FasterRCNNCriterion):
    """torchvision's losses; objects without a mask teach boxes only."""

    def __call__(self, outputs: Any, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        """Those of Faster R-CNN, and ``loss_mask``."""
        return super().__call__(outputs, targets) | {"loss_mask": mask_loss(outputs, targets)}


def mask_loss(outputs: MaskRCNNOutputs, targets: Sequence[Targets[Tensor]]) -> Tensor:
    """The mean binary cross-entropy of the masks of the regions that match an object with a mask."""
    masks, sample = outputs.masks, outputs.roi_heads.sample
    assert masks is not None and sample is not None
    device = masks.logits.device
    objects = [objects_masks(each) for each in targets]
    grids = Bitmaps.cat(objects)
    first = torch.tensor([0, *accumulate(len(each) for each in objects[:-1])])
    lengths = torch.tensor([len(each) for each in outputs.roi_heads.regions])
    image = torch.arange(len(lengths)).repeat_interleave(lengths).to(device, non_blocking=True)[masks.rows]
    heights_widths = torch.tensor(masks.sizes).to(device, non_blocking=True)[image]
    matched = first.to(device, non_blocking=True)[image] + sample.matches[masks.rows]
    regions = torch.cat(outputs.roi_heads.regions)[masks.rows]
    wanted = mask_targets(grids.select(matched), regions, heights_widths, side=MASK_SIDE)
    labels = sample.labels[masks.rows] - 1
    logits = masks.logits.gather(1, labels[:, None, None, None].expand(-1, 1, MASK_SIDE, MASK_SIDE))
    loss = F.binary_cross_entropy_with_logits(logits.squeeze(1), wanted, reduction="none").mean(dim=(1, 2))
    known = grids.known[matched]
    return loss.where(known, 0).sum() / mean_over_processes(known.sum().float(), at_least=1)


def objects_masks(targets: Targets[Tensor]) -> Bitmaps:
    """The masks of those that are not ignored, in the order of the second stage's matches."""
    masks = bitmaps_in(targets.fields)
    kept = ~targets.ignored
    if masks is None:  # of an image without objects
        boxes = targets.boxes.new_zeros((len(targets), 4))
        values = torch.zeros((len(targets), 1, 1), dtype=torch.uint8, device=boxes.device)
        masks = Bitmaps(values, boxes, torch.zeros(len(targets), dtype=torch.bool, device=boxes.device))
    return masks.select(kept.to(masks.frames.device)) if not kept.all() else masks


class MaskRCNNDetector(TwoStageDetector):
    """A detector that gives each instance its mask: the mask branch looks at what suppression leaves."""

    graph_fields = (MASKS,)

    def results(self, images: Sequence[Tensor]) -> list[Instances]:
        """The instances in each of the views, with the field ``masks``: bitmaps of 28 x 28 in their boxes."""
        batch: ImageList = self.transform(images)
        outputs: Any = self.outputs(batch)
        found = detections_of(self.postprocess(outputs, batch.image_sizes), self.postprocess.limits)
        nothing = batch.tensors.new_zeros((0, 4))
        for number, one in enumerate(found):
            values = [np.zeros((0, MASK_SIDE, MASK_SIDE), np.uint8)]
            for start in range(0, len(one), MOST_REGIONS):
                rows = slice(start, start + MOST_REGIONS)
                boxes, labels = (
                    torch.from_numpy(each[rows]).to(nothing.device) for each in (one.boxes, one.labels)
                )
                regions = [boxes if view == number else nothing for view in range(len(found))]
                masks = self._masks(outputs, regions, labels, batch.image_sizes)
                values.append((masks * 255).round().to(torch.uint8).cpu().numpy())
            found[number] = with_masks(one, np.concatenate(values))
        return found

    def _masks(
        self, outputs: Any, boxes: list[Tensor], labels: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """How sure it is of each cell of boxes, by the class that each has: (N, 28, 28), from 0 to 1."""
        network: Any = self.network
        logits: Tensor = network.mask_logits(outputs.features, boxes, sizes)
        rows = torch.arange(labels.shape[0], device=labels.device) * logits.shape[1] + labels
        return logits.flatten(0, 1)[rows].sigmoid()

    def graph_values(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        """See :meth:`Detector.graph_values`; of one view, what suppression leaves, and the masks of that.

        The last one has the score 0, so that it is never used: a runtime may fail where there is none.
        """
        boxes, scores, labels = (each[0] for each in self.postprocess(outputs, sizes))
        limits = self.postprocess.limits
        rows = torch.nonzero(scores > limits.score_threshold).flatten()
        # classes are moved apart, as there is but one suppression for all
        apart = boxes[rows] + labels[rows, None] * (edges_of(sizes, boxes).max() + 1)
        rows = rows[nms(apart, scores[rows], limits.nms_iou_threshold)[: limits.detections]]
        boxes, scores, labels = (
            torch.cat([each[rows], torch.zeros_like(each[:1])]) for each in (boxes, scores, labels)
        )
        masks = self._masks(outputs, [boxes], labels, sizes)
        return boxes[None], scores[None], labels[None], masks[None]


def with_masks(found: Instances, values: Any) -> Instances:
    """Instances whose masks are these values, (N, h, w) of 255, in their boxes."""
    known = found.scores >= 0
    return Instances(
        found.boxes, found.scores, found.labels, {**found.fields, MASKS: Bitmaps(values, found.boxes, known)}
    )


def build_mask_rcnn(spec: DetectorSpec) -> Detector:
    """Mask R-CNN with ResNet-18 to -152 behind a feature pyramid."""
    detector = build_two_stage(
        spec, "maskrcnn_", MaskRCNN, detector=MaskRCNNDetector, criterion=MaskRCNNCriterion()
    )
    network: Any = detector.network
    network.add_masks(MaskBranch(spec.num_classes))
    return detector
