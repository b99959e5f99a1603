"""RetinaNet (Lin et al., ICCV 2017) and FCOS (Tian et al., ICCV 2019) with ResNet-50, through torchvision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import sigmoid_focal_loss

from tilewise.models.anchor_generators import Anchors
from tilewise.models.anchor_network import AnchorNetwork, AnchorOutputs
from tilewise.models.box_learning import BoxLearning, image_sizes
from tilewise.models.detector import IMAGENET_MEAN, IMAGENET_STD, BatchImages, Detector
from tilewise.models.fpn import receptive_fields, resnet_pyramid
from tilewise.models.matching import (
    BoxCoder,
    Matcher,
    anchors_on_ignored,
    class_targets,
    count_found,
    match,
    matched_objects,
    of_matched,
    on_ignored,
    similarity,
    split_ignored,
)
from tilewise.models.postprocess import Candidates, best_scores, clip
from tilewise.models.priors import paired_giou
from tilewise.models.rfla import rfla
from tilewise.models.spec import DetectorSpec
from tilewise.models.totals import mean_over_processes
from tilewise.suppression import Limits
from tilewise.targets import Targets
from tilewise.views.view import Scaling

RETINANET_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
FCOS_STRIDES = (8, 16, 32, 64, 128)
MATCHING_IOU = (0.5, 0.4)
"""RetinaNet's anchors from the first on find an object, those below the second background."""
BOX_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
CENTER_RADIUS = 1.5
"""FCOS's points find objects whose centre is nearer than this many strides, in x and in y."""


class RetinaNetCriterion:
    """torchvision's loss, with ignored anchors treated like those between the matcher's two thresholds.

    Focal loss and L1, of each image over the number of its matched anchors; their means over the images.

    Attributes:
        learning: what a job chooses of it.

    """

    learning = BoxLearning()

    def __init__(self) -> None:
        self.matcher = Matcher(*MATCHING_IOU, allow_low_quality_matches=True)
        self.box_coder = BoxCoder(BOX_WEIGHTS)

    def __call__(self, outputs: AnchorOutputs, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        """``classification`` and ``bbox_regression``."""
        split, anchors = split_ignored(targets), torch.cat(outputs.anchors)
        between = self.matcher.BETWEEN_THRESHOLDS
        matches = match(self.matcher, split, anchors, similar=similarity(self.learning))
        if self.learning.counts:
            count_found(self.learning.counts, matches, image_sizes(targets))
        matches = matches.masked_fill((matches < 0) & anchors_on_ignored(split, anchors), between)
        objects = matched_objects(matches, split)
        counts = objects.foreground.sum(dim=1).clamp(min=1)

        logits, deltas = outputs.heads["cls_logits"], outputs.heads["bbox_regression"]
        counted = (matches != between)[..., None]
        class_loss = sigmoid_focal_loss(logits, class_targets(objects, logits.shape[2]))
        class_loss = class_loss.where(counted, 0).sum(dim=(1, 2))
        box_targets = self.box_coder.encode_single(objects.boxes.flatten(0, 1), anchors.repeat(len(split), 1))
        distance = (deltas - box_targets.view_as(deltas)).abs()
        if self.learning.weighs:
            sizes = of_matched(matches, image_sizes(targets))
            distance = self.learning.from_distance(distance.sum(dim=2), lambda: sizes, objects.foreground)[
                ..., None
            ]
        box_loss = distance.where(objects.foreground[..., None], 0).sum(dim=(1, 2))
        return {
            "classification": (class_loss / counts).mean(),
            "bbox_regression": (box_loss / counts).mean(),
        }


class RetinaNetPostprocess:
    """As torchvision's, for the whole batch at once; ``limits.candidates`` are those of a feature map."""

    def __init__(self, limits: Limits):
        self.limits, self.box_coder = limits, BoxCoder(BOX_WEIGHTS)

    def __call__(self, outputs: AnchorOutputs, sizes: Sequence[tuple[int, int]]) -> Candidates:
        """The candidates of each view of these (height, width)."""
        levels = []
        for logits, deltas, anchors in outputs.by_level("cls_logits", "bbox_regression"):
            best = best_scores(logits, self.limits.candidates)
            boxes = self.box_coder.decode_single(
                best.of(deltas).flatten(0, 1), anchors[best.priors].flatten(0, 1)
            )
            boxes = clip(boxes.view(*best.scores.shape, 4), sizes)
            levels.append(Candidates(boxes, best.scores.sigmoid(), best.classes))
        return Candidates.cat(levels)


class FCOSCriterion:
    """torchvision's loss: focal loss, generalised IoU, and cross-entropy of how central a point is.

    It picks no points, since a GPU would be waited for to learn how many. Points on ignored boxes take no
    part: their logits are replaced by a certain 'nothing here'.

    Args:
        fields: of the feature maps, for ``assignment=rfla``, see
            :func:`tilewise.models.fpn.receptive_fields`.

    Attributes:
        learning: what a job chooses of it.

    """

    learning = BoxLearning()

    def __init__(self, fields: Mapping[int, float] | None = None) -> None:
        self.box_coder = BoxLinearCoder(normalize_by_size=True)
        self.fields = fields or {}

    def __call__(self, outputs: AnchorOutputs, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        """``classification``, ``bbox_regression`` and ``bbox_ctrness``."""
        split, anchors = split_ignored(targets), torch.cat(outputs.anchors)
        logits = outputs.heads["cls_logits"]
        matches = torch.stack([self._match(outputs.anchors, target["boxes"]) for target in split])
        if any(len(target["ignored"]) for target in split):
            masks = [
                on_ignored(anchors, target["ignored"]) & ~_centre_in_any(anchors, target["boxes"])
                for target in split
            ]
            masked = torch.stack(masks) & (matches < 0)
            logits = logits.masked_fill(masked[..., None], -50.0)
        if self.learning.counts:
            count_found(self.learning.counts, matches, image_sizes(targets))
        objects = matched_objects(matches, split)
        points = anchors.expand(len(split), -1, -1)
        distances = self.box_coder.encode(points, objects.boxes)
        if self.learning.assignment == "rfla":
            distances = distances.clamp(min=1e-6)  # a point may lie outside of its object
        across, along = distances[..., 0::2], distances[..., 1::2]  # left and right, above and below
        central = torch.sqrt(across.amin(2) / across.amax(2) * (along.amin(2) / along.amax(2)))
        central = central.where(objects.foreground, 0)
        focal = sigmoid_focal_loss(logits, class_targets(objects, logits.shape[2]))
        boxes = self.box_coder.decode(outputs.heads["bbox_regression"], points)
        distance = self.learning.from_overlap(
            paired_giou(boxes, objects.boxes),
            lambda: of_matched(matches, image_sizes(targets)),
            objects.foreground,
        )
        centerness = outputs.heads["bbox_ctrness"].squeeze(dim=2)
        entropy = F.binary_cross_entropy_with_logits(centerness, central, reduction="none")
        count = mean_over_processes(objects.foreground.sum(), at_least=1)
        return {
            "classification": focal.sum() / count,
            "bbox_regression": distance.where(objects.foreground, 0).sum() / count,
            "bbox_ctrness": entropy.where(objects.foreground, 0).sum() / count,
        }

    def _match(self, levels: Sequence[Tensor], boxes_M4: Tensor) -> Tensor:
        if self.learning.assignment != "rfla":
            return match_points(levels, boxes_M4)
        anchors = torch.cat(list(levels))
        points, strides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
        return rfla(points, strides, boxes_M4, fields=self.fields)


def match_points(levels: Sequence[Tensor], boxes_M4: Tensor) -> Tensor:
    """The box that each of FCOS's points is to find: (A,) int64, -1 for none.

    A point lies in its box and near its centre, and the farthest side is four to eight strides away; on the
    finest map it may be nearer, on the coarsest farther. Of several boxes it finds the smallest. Areas are
    compared as torchvision does, in which those that differ by less than 8 pixels are the same: the first.

    Args:
        levels: of each feature map (A of it, 4) the squares around its points.
        boxes_M4: of one image.

    """
    anchors_A4 = torch.cat(list(levels))
    if not len(boxes_M4):
        return torch.full((len(anchors_A4),), -1, device=anchors_A4.device)
    low, high = boxes_M4[:, :2], boxes_M4[:, 2:]
    points = ((anchors_A4[:, :2] + anchors_A4[:, 2:]) / 2)[:, None]
    strides = anchors_A4[:, 2] - anchors_A4[:, 0]
    nearest, farthest = strides * 4, strides * 8
    nearest[: len(levels[0])] = 0
    farthest[-len(levels[-1]) :] = torch.inf
    central = (points - (low + high) / 2).abs().amax(dim=2) < CENTER_RADIUS * strides[:, None]
    sides = torch.cat([points - low, high - points], dim=2)  # (A, M, 4)
    far = sides.amax(dim=2)
    inside = (sides.amin(dim=2) > 0) & (far > nearest[:, None]) & (far < farthest[:, None])
    areas = (high - low)[:, 0] * (high - low)[:, 1]
    preference, smallest = ((central & inside).float() * (1e8 - areas)).max(dim=1)
    return smallest.masked_fill(preference < 1e-5, -1)


class FCOSPostprocess:
    """As torchvision's, for the whole batch at once; ``limits.candidates`` are those of a feature map."""

    def __init__(self, limits: Limits):
        self.limits, self.box_coder = limits, BoxLinearCoder(normalize_by_size=True)

    def __call__(self, outputs: AnchorOutputs, sizes: Sequence[tuple[int, int]]) -> Candidates:
        """The candidates of each view of these (height, width)."""
        levels = []
        heads = outputs.by_level("cls_logits", "bbox_ctrness", "bbox_regression")
        for logits, centerness, distances, anchors in heads:
            scores = torch.sqrt(logits.sigmoid() * centerness.sigmoid())
            best = best_scores(scores, self.limits.candidates)
            boxes = self.box_coder.decode(best.of(distances), anchors[best.priors])
            levels.append(Candidates(clip(boxes, sizes), best.scores, best.classes))
        return Candidates.cat(levels)


def _centre_in_any(anchors_N4: Tensor, boxes_M4: Tensor) -> Tensor:
    """Which anchors have their centre in one of the boxes, and so may be positive. Returns (N,) bool."""
    centre = (anchors_N4[:, None, :2] + anchors_N4[:, None, 2:]) / 2
    return ((centre > boxes_M4[None, :, :2]) & (centre < boxes_M4[None, :, 2:])).all(dim=2).any(dim=1)


def build_retinanet(spec: DetectorSpec) -> Detector:
    """RetinaNet on P3 to P7, or P2 to P7, three anchor sizes an octave."""
    sizes = spec.anchor_sizes or retinanet_sizes(spec.name, spec.scaling, stride_4_level=spec.stride_4_level)
    octave = tuple((size, size * 2 ** (1 / 3), size * 2 ** (2 / 3)) for size in sizes)
    anchors: Any = Anchors(octave, ((0.5, 1.0, 2.0),) * len(octave))
    backbone = resnet_pyramid("resnet50", stride_4_level=spec.stride_4_level)
    head = RetinaNetHead(backbone.out_channels, anchors.num_anchors_per_location()[0], spec.num_classes)
    network = AnchorNetwork(backbone, anchors, head)
    return Detector(network, _transform(), RetinaNetCriterion(), RetinaNetPostprocess(_limits(spec)))


def retinanet_sizes(name: str, scaling: Scaling, *, stride_4_level: bool) -> tuple[float, ...]:
    """The anchors' √areas in pixels, one a feature map: published, and half the first at stride 4."""
    return (RETINANET_SIZES[0] / 2, *RETINANET_SIZES) if stride_4_level else RETINANET_SIZES


def build_fcos(spec: DetectorSpec) -> Detector:
    """FCOS on P3 to P7, or P2 to P7. It has points, not anchors: there is nothing to fit to the data."""
    strides = (4, *FCOS_STRIDES) if spec.stride_4_level else FCOS_STRIDES
    points = Anchors(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
    backbone = resnet_pyramid("resnet50", stride_4_level=spec.stride_4_level)
    network = AnchorNetwork(backbone, points, FCOSHead(backbone.out_channels, 1, spec.num_classes))
    criterion = FCOSCriterion(receptive_fields(backbone))
    return Detector(network, _transform(), criterion, FCOSPostprocess(_limits(spec)))


def _transform() -> BatchImages:
    return BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)


def _limits(spec: DetectorSpec) -> Limits:
    return spec.limits(max(1000, spec.detections_per_view))
