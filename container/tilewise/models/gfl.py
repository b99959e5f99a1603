"""GFL, generalized focal loss (Li et al., NeurIPS 2020), on a ResNet with a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tilewise.boxes import paired_iou
from tilewise.models.atss import Positives, atss
from tilewise.models.box_learning import BoxLearning, image_sizes
from tilewise.models.detector import IMAGENET_MEAN, IMAGENET_STD, BatchImages, Detector
from tilewise.models.fpn import receptive_fields, resnet_pyramid
from tilewise.models.matching import Target, split_ignored
from tilewise.models.postprocess import Candidates, best_scores, clip
from tilewise.models.priors import (
    Priors,
    gather_objects,
    make_priors,
    on_ignored_points,
    paired_giou,
)
from tilewise.models.rfla import rfla
from tilewise.models.spec import DetectorSpec
from tilewise.models.totals import mean_over_processes
from tilewise.suppression import Limits
from tilewise.targets import Targets

STRIDES = (8, 16, 32, 64, 128)
BINS = 17
"""A side's distance from its point is a distribution over 0, 1, … 16 strides."""
BOX_WEIGHT, DISTRIBUTION_WEIGHT = 2.0, 0.25
PRIOR_SCORE = 0.01


class GFLOutputs(NamedTuple):
    """What GFL says of each of P priors.

    Attributes:
        features: (B, C, h, w) feature maps by name, finest first.
        classes: (B, P, classes) float32 logits.
        distances: (B, P, 4 * BINS) float32 logits of the distances of left, top, right and bottom.
        priors: the same for all images.

    """

    features: dict[str, Tensor]
    classes: Tensor
    distances: Tensor
    priors: Priors

    def class_maps(self) -> list[Tensor]:
        """See :class:`~tilewise.models.detector.Outputs`."""
        return self.priors.maps(self.classes)


class GFLHead(nn.Module):
    """Four convolutions for the class and four for the box, the same on all feature maps."""

    def __init__(self, channels: int, num_classes: int, levels: int):
        super().__init__()
        self.cls_convs, self.reg_convs = (
            nn.Sequential(
                *(
                    nn.Sequential(
                        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                        nn.GroupNorm(32, channels),
                        nn.ReLU(inplace=True),
                    )
                    for _ in range(4)
                )
            )
            for _ in range(2)
        )
        self.gfl_cls = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.gfl_reg = nn.Conv2d(channels, 4 * BINS, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.gfl_cls.bias, -math.log(1 / PRIOR_SCORE - 1))  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Classes and distances of the feature maps, finest first; priors level by level, row by row."""
        classes, distances = [], []
        for features, scale in zip(maps, self.scales, strict=True):
            classes.append(self.gfl_cls(self.cls_convs(features)).flatten(2))
            distances.append((self.gfl_reg(self.reg_convs(features)) * scale).flatten(2))
        return _by_prior(classes), _by_prior(distances)


def _by_prior(maps: list[Tensor]) -> Tensor:
    """(B, C, P) of each level -> (B, all P, C) float32."""
    return torch.cat(maps, dim=2).transpose(1, 2).float()


class GFL(nn.Module):
    """ResNet with a feature pyramid, and the head.

    Args:
        resnet: its backbone, ``resnet18`` and so on.
        num_classes: object classes.
        stride_4_level: whether there is a feature map at stride 4.

    """

    def __init__(self, resnet: str, num_classes: int, *, stride_4_level: bool):
        super().__init__()
        self.strides = (4, *STRIDES) if stride_4_level else STRIDES
        self.backbone = resnet_pyramid(resnet, stride_4_level=stride_4_level)
        self.head = GFLHead(256, num_classes, len(self.strides))

    def features(self, batch_BCHW: Tensor) -> dict[str, Tensor]:
        """The feature maps of a normalised batch by name, finest first."""
        maps: dict[str, Tensor] = self.backbone(batch_BCHW)
        return maps

    def forward(self, batch_BCHW: Tensor) -> GFLOutputs:
        """Of a normalised batch."""
        features = self.features(batch_BCHW)
        maps = list(features.values())
        classes, distances = self.head(maps)
        shapes = [(each.shape[2], each.shape[3]) for each in maps]
        # a ResNet's points lie on multiples of the stride: its strided convolutions are padded on both sides
        priors = make_priors(shapes, self.strides, 0.0, device=batch_BCHW.device)
        return GFLOutputs(features, classes, distances, priors)


class GFLCriterion:
    """Quality focal loss of the classes, GIoU and distribution focal loss of the boxes.

    The class score of a positive prior is taught to be the IoU of the box that it predicts. The losses of its
    box weigh as much as its score, and are divided by the sum of these weights; that of the classes is
    divided by the number of positive priors, or of images where there are fewer. Priors on ignored boxes are
    taught nothing.

    Args:
        fields: of the feature maps, for ``assignment=rfla``, see
            :func:`tilewise.models.fpn.receptive_fields`.

    Attributes:
        learning: what a job chooses of it.

    """

    learning = BoxLearning()

    def __init__(self, fields: Mapping[int, float] | None = None) -> None:
        self.fields = fields or {}

    def __call__(self, outputs: GFLOutputs, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        """``classification``, ``bbox_regression`` and ``distribution``."""
        with torch.autocast(outputs.classes.device.type, enabled=False):
            return self._losses(outputs, split_ignored(targets), partial(image_sizes, targets))

    def _losses(
        self, outputs: GFLOutputs, targets: list[Target], sizes: Callable[[], list[Tensor]]
    ) -> dict[str, Tensor]:
        priors = outputs.priors
        objects = gather_objects(targets)
        if self.learning.assignment == "rfla":
            positives = _rfla(priors, targets, self.fields)
        else:
            positives = atss(priors, objects, len(targets))
        if self.learning.counts:
            found = torch.zeros_like(objects.labels, dtype=torch.bool)
            found[positives.objects] = True
            self.learning.counts.add(torch.cat(sizes()), found)
        place = (positives.images, positives.priors)
        strides, box_targets = priors.strides[positives.priors, None], objects.boxes[positives.objects]
        points, distribution = (
            priors.points[positives.priors],
            outputs.distances[place].unflatten(1, (4, BINS)),
        )
        boxes = decode(distribution, points, strides)
        quality = torch.zeros_like(outputs.classes)
        quality[(*place, objects.labels[positives.objects])] = paired_iou(boxes, box_targets).detach()
        on_ignored = on_ignored_points(priors, targets)
        on_ignored[place] = False

        weights = outputs.classes[place].detach().sigmoid().amax(dim=1)
        giou = self.learning.from_overlap(
            paired_giou(boxes / strides, box_targets / strides),
            lambda: torch.cat(sizes())[positives.objects],
        )
        sides = torch.cat([points - box_targets[:, :2], box_targets[:, 2:] - points], dim=1) / strides
        classification = (
            quality_focal_loss(outputs.classes, quality).masked_fill(on_ignored[..., None], 0).sum()
        )
        count, total = mean_over_processes(
            torch.stack([weights.new_full((), len(positives.priors)), weights.sum()]), at_least=1
        )
        return {
            "classification": classification / count.clamp(min=len(targets)),
            "bbox_regression": BOX_WEIGHT * (giou * weights).sum() / total,
            "distribution": DISTRIBUTION_WEIGHT
            * (distribution_focal_loss(distribution, sides).mean(dim=1) * weights).sum()
            / total,
        }


def _rfla(priors: Priors, targets: Sequence[Target], fields: Mapping[int, float]) -> Positives:
    """The positives of a batch by their receptive fields."""
    matches = torch.stack(
        [rfla(priors.points, priors.strides, target["boxes"], fields=fields) for target in targets]
    )
    counts = [0, *(len(target["boxes"]) for target in targets[:-1])]
    first = torch.tensor(counts).cumsum(0).to(matches.device, non_blocking=True)
    images, places = torch.nonzero(matches >= 0, as_tuple=True)
    return Positives(images, places, matches[images, places] + first[images])


class GFLPostprocess:
    """The best classes of each feature map's priors; ``limits.candidates`` are those of a feature map."""

    def __init__(self, limits: Limits):
        self.limits = limits

    def __call__(self, outputs: GFLOutputs, sizes: Sequence[tuple[int, int]]) -> Candidates:
        """The candidates of each view of these (height, width)."""
        priors = outputs.priors
        levels = []
        for height, width, _, first in priors.levels:
            best = best_scores(outputs.classes[:, first : first + height * width], self.limits.candidates)
            best = best._replace(priors=best.priors + first)
            place = best.priors.flatten()
            distribution = best.of(outputs.distances).view(-1, 4, BINS)
            boxes = decode(distribution, priors.points[place], priors.strides[place, None])
            boxes = clip(boxes.view(*best.scores.shape, 4), sizes)
            levels.append(Candidates(boxes, best.scores.sigmoid(), best.classes))
        return Candidates.cat(levels)


def decode(distribution_K4b: Tensor, points_K2: Tensor, strides_K1: Tensor) -> Tensor:
    """Distributions' logits of the distances of left, top, right and bottom -> (K, 4) boxes in pixels."""
    bins = torch.arange(BINS, device=points_K2.device, dtype=points_K2.dtype)
    distances = (distribution_K4b.softmax(dim=2) * bins).sum(dim=2) * strides_K1
    return torch.cat([points_K2 - distances[:, :2], points_K2 + distances[:, 2:]], dim=1)


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Cross-entropy with a quality from 0 to 1, times the squared distance of score and quality (eq. 4)."""
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return entropy * (quality - logits.sigmoid()).square()


def distribution_focal_loss(distribution_K4b: Tensor, distances_K4: Tensor) -> Tensor:
    """Cross-entropy with the two whole numbers beside a distance, the nearer one the more (eq. 6).

    Returns:
        (K, 4).

    """
    distances = distances_K4.clamp(0, BINS - 1 - 0.1)  # as the published code; there is a bin above
    low = distances.long()
    logs = distribution_K4b.log_softmax(dim=2)
    below, above = (logs.gather(2, index[..., None])[..., 0] for index in (low, low + 1))
    share = distances - low
    return -(below * (1 - share) + above * share)


def build_gfl(spec: DetectorSpec) -> Detector:
    """GFL with the ResNet that the name says."""
    limits = spec.limits(max(1000, spec.detections_per_view))
    resnet = spec.name.removeprefix("gfl_").removesuffix("_fpn")
    network = GFL(resnet, spec.num_classes, stride_4_level=spec.stride_4_level)
    transform = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)
    criterion = GFLCriterion(receptive_fields(network.backbone))
    return Detector(network, transform, criterion, GFLPostprocess(limits))
