"""YOLOX (Ge et al., arXiv 2107.08430), written from the paper; its published weights load by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tilewise.boxes import paired_iou
from tilewise.models.box_learning import BoxLearning, image_sizes
from tilewise.models.csp_darknet import ConvBlock, PathAggregation, block_3x3
from tilewise.models.detector import BatchImages, Detector
from tilewise.models.matching import Target, split_ignored
from tilewise.models.postprocess import Candidates, best_scores, clip
from tilewise.models.priors import Priors, gather_objects, make_priors, on_ignored_points
from tilewise.models.simota import Assignment, simota
from tilewise.models.spec import DetectorSpec
from tilewise.models.totals import mean_over_processes
from tilewise.suppression import Limits
from tilewise.targets import Targets

STRIDES = (8, 16, 32)
BOX_WEIGHT = 5.0
PRIOR_SCORE = 0.01
"""What a fresh head says of every class and of there being an object."""
LARGEST_LOG_SIDE = 10.0


class Size(NamedTuple):
    """Bottlenecks and channels as shares of YOLOX-l's, and whether 3x3 convolutions are separable."""

    depth: float
    width: float
    separable: bool = False


SIZES = {
    "yolox_nano": Size(1 / 3, 0.25, separable=True),
    "yolox_tiny": Size(1 / 3, 0.375),
    "yolox_s": Size(1 / 3, 0.5),
    "yolox_m": Size(2 / 3, 0.75),
    "yolox_l": Size(1.0, 1.0),
    "yolox_x": Size(4 / 3, 1.25),
}


class YOLOXOutputs(NamedTuple):
    """What YOLOX says of each of P priors.

    Attributes:
        features: (B, C, h, w) feature maps by name, finest first.
        boxes: (B, P, 4) float32, raw: see :func:`decode`.
        classes: (B, P, classes) float32 logits.
        objects: (B, P) float32 logits of there being an object.
        priors: the same for all images.

    """

    features: dict[str, Tensor]
    boxes: Tensor
    classes: Tensor
    objects: Tensor
    priors: Priors

    def class_maps(self) -> list[Tensor]:
        """See :class:`~tilewise.models.detector.Outputs`."""
        return self.priors.maps(self.classes)


class YOLOXHead(nn.Module):
    """The decoupled head: classes on one branch, box and objectness on the other."""

    def __init__(self, channels: list[int], hidden: int, num_classes: int, *, separable: bool):
        super().__init__()

        def branches() -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(*(block_3x3(hidden, hidden, separable=separable) for _ in range(2)))
                for _ in channels
            )

        def predictions(width: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(hidden, width, 1) for _ in channels)

        self.stems = nn.ModuleList(ConvBlock(width, hidden, 1) for width in channels)
        self.cls_convs, self.reg_convs = branches(), branches()
        self.cls_preds, self.reg_preds, self.obj_preds = (predictions(n) for n in (num_classes, 4, 1))
        for layer in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(layer.bias, -math.log(1 / PRIOR_SCORE - 1))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Raw boxes, classes and objects of the feature maps; priors level by level, row by row.

        And the maps that the boxes are read from.
        """
        boxes, classes, objects, places = [], [], [], []
        for number, features in enumerate(maps):
            # the published weights' levels are the first ones: one at stride 4 is the last of the modules
            level = (number - (len(maps) - len(STRIDES))) % len(maps)
            stem = self.stems[level](features)
            where = self.reg_convs[level](stem)
            classes.append(self.cls_preds[level](self.cls_convs[level](stem)))
            boxes.append(self.reg_preds[level](where))
            objects.append(self.obj_preds[level](where))
            places.append(where)
        return _by_prior(boxes), _by_prior(classes), _by_prior(objects)[..., 0], places


def _by_prior(maps: list[Tensor]) -> Tensor:
    """(B, C, H, W) of each level -> (B, P, C) float32."""
    return torch.cat([each.flatten(2) for each in maps], dim=2).transpose(1, 2).float()


class YOLOX(nn.Module):
    """Backbone with a pyramid both ways, and the decoupled head.

    Args:
        size: depth and width.
        num_classes: object classes.
        stride_4_level: whether there is a feature map at stride 4.

    """

    def __init__(self, size: Size, num_classes: int, *, stride_4_level: bool = False):
        super().__init__()
        self.strides = (4, *STRIDES) if stride_4_level else STRIDES
        base, depth = int(64 * size.width), max(round(3 * size.depth), 1)
        channels = [4 * base, 8 * base, 16 * base, *([2 * base] if stride_4_level else [])]
        self.backbone = PathAggregation(base, depth, separable=size.separable, stride_4_level=stride_4_level)
        self.head = YOLOXHead(channels, int(256 * size.width), num_classes, separable=size.separable)

    def features(self, batch_BCHW: Tensor) -> dict[str, Tensor]:
        """The feature maps of a batch of pixels from 0 to 255 by name, finest first."""
        return {str(level): each for level, each in enumerate(self.backbone(batch_BCHW))}

    def forward(self, batch_BCHW: Tensor) -> YOLOXOutputs:
        """Of a batch of pixels from 0 to 255."""
        return self.look(batch_BCHW)[0]

    def look(self, batch_BCHW: Tensor) -> tuple[YOLOXOutputs, list[Tensor]]:
        """The same, and the maps that the boxes are read from."""
        features = self.features(batch_BCHW)
        maps = list(features.values())
        shapes = [(each.shape[2], each.shape[3]) for each in maps]
        boxes, classes, objects, places = self.head(maps)
        priors = make_priors(shapes, self.strides, 0.5, device=batch_BCHW.device)
        return YOLOXOutputs(features, boxes, classes, objects, priors), places


class YOLOXCriterion:
    """Box loss 5 * (1 - IoU²), and cross-entropies of objectness and of classes.

    All are sums over the batch divided by the number of positive priors, or of images where there are fewer.
    A positive prior's class is taught to the extent of its IoU. Priors on ignored boxes are taught nothing.
    The paper's L1 loss of the last epochs is left out.

    Attributes:
        learning: what a job chooses of it.

    """

    learning = BoxLearning()

    def __call__(self, outputs: YOLOXOutputs, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        """``bbox_regression``, ``objectness`` and ``classification``."""
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            sizes = partial(image_sizes, targets)
            return self.losses_and_assignment(outputs, split_ignored(targets), sizes)[0]

    def losses_and_assignment(
        self, outputs: Any, targets: list[Target], sizes: Callable[[], list[Tensor]]
    ) -> tuple[dict[str, Tensor], Assignment]:
        """In single precision: the losses, and which priors are to find which objects."""
        priors = outputs.priors
        boxes = decode(outputs.boxes, priors)
        objects = gather_objects(targets)
        assignment = simota(boxes, outputs.classes, outputs.objects, priors=priors, objects=objects)
        positive = torch.zeros_like(outputs.objects)
        positive[assignment.images, assignment.priors] = 1
        on_ignored = on_ignored_points(priors, targets) & (positive == 0)
        positives = mean_over_processes(outputs.objects.new_full((), len(assignment.priors)))
        count = positives.clamp(min=len(targets))

        if self.learning.counts:
            found = torch.zeros_like(objects.labels, dtype=torch.bool)
            found[assignment.objects] = True
            self.learning.counts.add(torch.cat(sizes()), found)
        iou = paired_iou(boxes[assignment.images, assignment.priors], objects.boxes[assignment.objects])
        distance = self.learning.from_overlap(iou.square(), lambda: torch.cat(sizes())[assignment.objects])
        logits = outputs.classes[assignment.images, assignment.priors]
        classes = F.one_hot(objects.labels[assignment.objects], logits.shape[1]) * assignment.iou[:, None]
        objectness = F.binary_cross_entropy_with_logits(outputs.objects, positive, reduction="none")
        losses = {
            "bbox_regression": BOX_WEIGHT * distance.sum() / count,
            "objectness": objectness.masked_fill(on_ignored, 0).sum() / count,
            "classification": F.binary_cross_entropy_with_logits(logits, classes, reduction="sum") / count,
        }
        return losses, assignment


class YOLOXPostprocess:
    """The best class of each prior, scored by its probability times objectness."""

    def __init__(self, limits: Limits):
        self.limits = limits

    def __call__(self, outputs: YOLOXOutputs, sizes: Sequence[tuple[int, int]]) -> Candidates:
        """The candidates of each view of these (height, width)."""
        scores, classes = outputs.classes.sigmoid().max(dim=2)
        scores = scores * outputs.objects.sigmoid()
        best = best_scores(scores[..., None], self.limits.candidates)
        boxes = best.of(decode(outputs.boxes, outputs.priors))
        return Candidates(clip(boxes, sizes), best.scores, best.of(classes))


def decode(raw_BP4: Tensor, priors: Priors) -> Tensor:
    """Offsets and logarithms of sides, in strides -> boxes in pixels, of the same shape."""
    strides = priors.strides[:, None]
    corner = priors.points - strides / 2  # offsets count from a cell's corner
    centre = corner + raw_BP4[..., :2] * strides
    half = raw_BP4[..., 2:].clamp(max=LARGEST_LOG_SIDE).exp() * strides / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def build_yolox(spec: DetectorSpec) -> Detector:
    """YOLOX of the size that the name says."""
    limits = spec.limits(max(1000, 2 * spec.detections_per_view))
    # pixels from 0 to 255, as the published weights want them
    transform = BatchImages((0.0,) * 3, (1 / 255,) * 3, divisor=STRIDES[-1])
    network = YOLOX(SIZES[spec.name], spec.num_classes, stride_4_level=spec.stride_4_level)
    return Detector(network, transform, YOLOXCriterion(), YOLOXPostprocess(limits))
