"""RetinaNet (Lin et al., ICCV 2017) and FCOS (Tian et al., ICCV 2019) with ResNet-50, through torchvision."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.fcos import FCOSHead as TorchvisionFCOSHead
from torchvision.ops import sigmoid_focal_loss

from tilewise.models.anchor_generators import Anchors
from tilewise.models.detector import IMAGENET_MEAN, IMAGENET_STD, BatchImages, Detector, Target, on_ignored
from tilewise.models.fpn import resnet_pyramid
from tilewise.models.matching import (
    BoxCoder,
    Matcher,
    OneStage,
    anchors_on_ignored,
    class_targets,
    match,
    matched_objects,
)
from tilewise.models.postprocess import Limits, candidates_of, logit, suppress
from tilewise.models.priors import paired_giou
from tilewise.models.spec import DetectorSpec
from tilewise.models.totals import mean_over_processes
from tilewise.views.view import Scaling

RETINANET_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
FCOS_STRIDES = (8, 16, 32, 64, 128)


class RetinaNet(OneStage, TorchvisionRetinaNet):
    """torchvision's RetinaNet; anchors on ignored boxes take no part in its loss."""

    def compute_loss(
        self, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """As torchvision's, with ignored anchors treated like those between the two thresholds.

        Focal loss and L1, of each image over the number of its matched anchors; their means over the images.
        """
        logits, regression = head_outputs["cls_logits"].float(), head_outputs["bbox_regression"].float()
        between = self.proposal_matcher.BETWEEN_THRESHOLDS
        matches = torch.stack(match(self.proposal_matcher, targets, anchors))
        matches = matches.masked_fill((matches < 0) & anchors_on_ignored(targets, anchors), between)
        objects = matched_objects(matches, targets)
        counts = objects.foreground.sum(dim=1).clamp(min=1)

        counted = (matches != between)[..., None]
        class_loss = sigmoid_focal_loss(logits, class_targets(objects, logits.shape[2]))
        class_loss = class_loss.where(counted, 0).sum(dim=(1, 2))
        wanted = self.box_coder.encode_single(objects.boxes.flatten(0, 1), torch.cat(anchors))
        distance = (regression - wanted.view_as(regression)).abs()
        box_loss = distance.where(objects.foreground[..., None], 0).sum(dim=(1, 2))
        return {
            "classification": (class_loss / counts).mean(),
            "bbox_regression": (box_loss / counts).mean(),
        }

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[Target]:
        """As torchvision's, for the whole batch at once."""
        limits = _limits(self)
        found, boxes = [], []
        for logits, deltas, level in zip(
            head_outputs["cls_logits"], head_outputs["bbox_regression"], anchors[0], strict=True
        ):
            best = candidates_of(logits.float(), logit(limits.score_threshold), limits.candidates)
            found.append(best._replace(scores=best.scores.sigmoid()))
            chosen = deltas[best.images, best.priors].float()
            boxes.append(self.box_coder.decode_single(chosen, level[best.priors]))
        return suppress(found, boxes, image_shapes, limits)


class FCOSHead(TorchvisionFCOSHead):
    """torchvision's, whose loss picks no points: a GPU would be waited for to learn how many."""

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """As torchvision's: focal loss, generalised IoU, and cross-entropy of how central a point is."""
        points, logits = torch.stack(anchors), head_outputs["cls_logits"]
        objects = matched_objects(torch.stack(matched_idxs), targets)
        distances = self.box_coder.encode(points, objects.boxes)
        across, along = distances[..., 0::2], distances[..., 1::2]  # left and right, above and below
        central = torch.sqrt(across.amin(2) / across.amax(2) * (along.amin(2) / along.amax(2)))
        central = central.where(objects.foreground, 0)
        focal = sigmoid_focal_loss(logits, class_targets(objects, logits.shape[2]))
        boxes = self.box_coder.decode(head_outputs["bbox_regression"], points)
        distance = 1 - paired_giou(boxes, objects.boxes)
        centreness = head_outputs["bbox_ctrness"].squeeze(dim=2)
        entropy = F.binary_cross_entropy_with_logits(centreness, central, reduction="none")
        count = mean_over_processes(objects.foreground.sum(), at_least=1)
        return {
            "classification": focal.sum() / count,
            "bbox_regression": distance.where(objects.foreground, 0).sum() / count,
            "bbox_ctrness": entropy.where(objects.foreground, 0).sum() / count,
        }


class FCOS(OneStage, TorchvisionFCOS):
    """torchvision's FCOS; points on ignored boxes take no part in its loss."""

    def losses(
        self, targets: list[Target], outputs: dict[str, Tensor], anchors: list[Tensor], maps: list[Tensor]
    ) -> dict[str, Tensor]:
        """See :meth:`compute_loss`."""
        return self.compute_loss(targets, outputs, anchors, [each.shape[2] * each.shape[3] for each in maps])

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        num_anchors_per_level: list[int],
    ) -> dict[str, Tensor]:
        """As torchvision's; the logits of ignored points are replaced by a certain 'nothing here'."""
        head_outputs = {name: output.float() for name, output in head_outputs.items()}
        if any(len(target["ignored"]) for target in targets):
            silent = [
                on_ignored(anchor, target["ignored"]) & ~_centre_in_any(anchor, target["boxes"])
                for anchor, target in zip(anchors, targets, strict=True)
            ]
            logits = head_outputs["cls_logits"].masked_fill(torch.stack(silent)[..., None], -50.0)
            head_outputs = {**head_outputs, "cls_logits": logits}
        losses: dict[str, Tensor] = super().compute_loss(
            targets, head_outputs, anchors, num_anchors_per_level
        )
        return losses

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[Target]:
        """As torchvision's, for the whole batch at once."""
        limits = _limits(self)
        found, boxes = [], []
        for logits, centreness, distances, level in zip(
            *(head_outputs[name] for name in ("cls_logits", "bbox_ctrness", "bbox_regression")),
            anchors[0],
            strict=True,
        ):
            scores = torch.sqrt(logits.float().sigmoid() * centreness.float().sigmoid())
            best = candidates_of(scores, limits.score_threshold, limits.candidates)
            found.append(best)
            chosen = distances[best.images, best.priors].float()
            boxes.append(self.box_coder.decode(chosen, level[best.priors]))
        return suppress(found, boxes, image_shapes, limits)


def _centre_in_any(anchors_N4: Tensor, boxes_M4: Tensor) -> Tensor:
    """Which anchors have their centre in one of the boxes, and so may be positive. Returns (N,) bool."""
    centre = (anchors_N4[:, None, :2] + anchors_N4[:, None, 2:]) / 2
    return ((centre > boxes_M4[None, :, :2]) & (centre < boxes_M4[None, :, 2:])).all(dim=2).any(dim=1)


def build_retinanet(spec: DetectorSpec) -> Detector:
    """RetinaNet on P3 to P7, or P2 to P7, three anchor sizes an octave."""
    sizes = spec.anchor_sizes or retinanet_sizes(spec.name, spec.scaling, spec.stride_4_level)
    octave = tuple((size, size * 2 ** (1 / 3), size * 2 ** (2 / 3)) for size in sizes)
    anchors = Anchors(octave, ((0.5, 1.0, 2.0),) * len(octave))
    backbone = resnet_pyramid("resnet50", spec.stride_4_level)
    network = RetinaNet(backbone, spec.num_classes, anchor_generator=anchors, **_thresholds(spec))
    network.proposal_matcher.__class__, network.box_coder.__class__ = Matcher, BoxCoder
    network.transform = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)
    return Detector(network, background=False)


def retinanet_sizes(name: str, scaling: Scaling, stride_4_level: bool) -> tuple[float, ...]:
    """The anchors' √areas in pixels, one a feature map: published, and half the first at stride 4."""
    return (RETINANET_SIZES[0] / 2, *RETINANET_SIZES) if stride_4_level else RETINANET_SIZES


def build_fcos(spec: DetectorSpec) -> Detector:
    """FCOS on P3 to P7, or P2 to P7. It has points, not anchors: there is nothing to fit to the data."""
    strides = (4, *FCOS_STRIDES) if spec.stride_4_level else FCOS_STRIDES
    points = Anchors(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
    backbone = resnet_pyramid("resnet50", spec.stride_4_level)
    network = FCOS(backbone, spec.num_classes, anchor_generator=points, **_thresholds(spec))
    network.head.__class__ = FCOSHead
    network.transform = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)
    return Detector(network, background=False)


def _limits(network: RetinaNet | FCOS) -> Limits:
    return Limits(
        network.score_thresh, network.nms_thresh, network.topk_candidates, network.detections_per_img
    )


def _thresholds(spec: DetectorSpec) -> dict[str, Any]:
    return {
        "score_thresh": spec.score_threshold,
        "nms_thresh": spec.nms_iou_threshold,
        "detections_per_img": spec.detections_per_view,
        "topk_candidates": max(1000, spec.detections_per_view),
    }
