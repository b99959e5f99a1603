"""RetinaNet (Lin et al., ICCV 2017) and FCOS (Tian et al., ICCV 2019) with ResNet-50, through torchvision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from tilewise.models.detector import IMAGENET_MEAN, IMAGENET_STD, BatchImages, Detector, Target, on_ignored
from tilewise.models.fpn import resnet_pyramid
from tilewise.models.postprocess import Limits, candidates_of, logit, suppress
from tilewise.models.spec import DetectorSpec

RETINANET_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
FCOS_STRIDES = (8, 16, 32, 64, 128)


class RetinaNet(TorchvisionRetinaNet):
    """torchvision's RetinaNet; anchors on ignored boxes take no part in its loss."""

    def compute_loss(
        self, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """As torchvision's, with ignored anchors treated like those between the two thresholds."""
        head_outputs = _in_single_precision(head_outputs)
        matched = []
        for anchor, target in zip(anchors, targets, strict=True):
            if len(target["boxes"]):
                match = self.proposal_matcher(box_iou(target["boxes"], anchor))
            else:
                match = torch.full((len(anchor),), -1, dtype=torch.int64, device=anchor.device)
            match[(match < 0) & on_ignored(anchor, target["ignored"])] = (
                self.proposal_matcher.BETWEEN_THRESHOLDS
            )
            matched.append(match)
        losses: dict[str, Tensor] = self.head.compute_loss(targets, head_outputs, anchors, matched)
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
        for logits, deltas, level in zip(
            head_outputs["cls_logits"], head_outputs["bbox_regression"], anchors[0], strict=True
        ):
            best = candidates_of(logits.float(), logit(limits.score_threshold), limits.candidates)
            found.append(best._replace(scores=best.scores.sigmoid()))
            chosen = deltas[best.images, best.priors].float()
            boxes.append(self.box_coder.decode_single(chosen, level[best.priors]))
        return suppress(found, boxes, image_shapes, limits)


class FCOS(TorchvisionFCOS):
    """torchvision's FCOS; points on ignored boxes take no part in its loss."""

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        num_anchors_per_level: list[int],
    ) -> dict[str, Tensor]:
        """As torchvision's; the logits of ignored points are replaced by a certain 'nothing here'."""
        head_outputs = _in_single_precision(head_outputs)
        silent = [
            on_ignored(anchor, target["ignored"]) for anchor, target in zip(anchors, targets, strict=True)
        ]
        mask = torch.stack(silent)
        if mask.any():
            for row, (anchor, target) in enumerate(zip(anchors, targets, strict=True)):
                mask[row] &= ~_centre_in_any(anchor, target["boxes"])
            logits = head_outputs["cls_logits"].masked_fill(mask[..., None], -50.0)
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
    sizes = spec.anchor_sizes or retinanet_sizes(spec.stride_4_level)
    octave = tuple((size, size * 2 ** (1 / 3), size * 2 ** (2 / 3)) for size in sizes)
    anchors = AnchorGenerator(octave, ((0.5, 1.0, 2.0),) * len(octave))
    backbone = resnet_pyramid("resnet50", spec.stride_4_level)
    network = RetinaNet(backbone, spec.num_classes, anchor_generator=anchors, **_thresholds(spec))
    network.transform = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)
    return Detector(network, background=False)


def retinanet_sizes(stride_4_level: bool) -> tuple[float, ...]:
    """The anchors' √areas in pixels, one a feature map: published, and half the first at stride 4."""
    return (RETINANET_SIZES[0] / 2, *RETINANET_SIZES) if stride_4_level else RETINANET_SIZES


def build_fcos(spec: DetectorSpec) -> Detector:
    """FCOS on P3 to P7, or P2 to P7. It has points, not anchors: there is nothing to fit to the data."""
    strides = (4, *FCOS_STRIDES) if spec.stride_4_level else FCOS_STRIDES
    points = AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
    backbone = resnet_pyramid("resnet50", spec.stride_4_level)
    network = FCOS(backbone, spec.num_classes, anchor_generator=points, **_thresholds(spec))
    network.transform = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)
    return Detector(network, background=False)


def _in_single_precision(head_outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: output.float() for name, output in head_outputs.items()}


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
