"""Faster R-CNN (Ren et al., NeurIPS 2015) with a feature pyramid, through torchvision."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from tilewise.models.anchor_generators import Anchors
from tilewise.models.detector import IMAGENET_MEAN, IMAGENET_STD, BatchImages, Detector, Target, on_ignored
from tilewise.models.roi_align import RoIAlign
from tilewise.models.spec import DetectorSpec

PUBLISHED_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)


class SinglePrecisionRPNHead(RPNHead):
    """torchvision's, whose outputs become boxes: in float32, whatever the convolutions are in."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box regression of each feature map."""
        logits, deltas = super().forward(x)
        return [each.float() for each in logits], [each.float() for each in deltas]


class SinglePrecisionPredictor(FastRCNNPredictor):
    """torchvision's, whose outputs become boxes: in float32, whatever the layers are in."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box regression of each region."""
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class RPN(RegionProposalNetwork):
    """torchvision's RPN; anchors on ignored boxes are neither object nor background to it."""

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
        if all((label < 0).all() for label in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        losses: tuple[Tensor, Tensor]
        losses = super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)
        return losses


class RoIHeads(TorchvisionRoIHeads):
    """torchvision's second stage; proposals on ignored boxes are neither object nor background to it."""

    _ignored: list[Tensor]
    _sampled: int

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], dict[str, Tensor]]:
        """As torchvision's, but with zero losses, not NaN, where all proposals of the batch are ignored."""
        found, losses = super().forward(features, proposals, image_shapes, targets)
        if self.training and not self._sampled:
            losses = {name: loss.nan_to_num(0) for name, loss in losses.items()}  # still with gradients
        return found, losses

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[Target] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """As torchvision's."""
        assert targets is not None
        self._ignored = [target["ignored"] for target in targets]
        selected: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
        selected = super().select_training_samples(proposals, targets)
        self._sampled = sum(map(len, selected[0]))
        return selected

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, with label -1 (not sampled) for background proposals on an ignored box."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, proposal, ignored in zip(labels, proposals, self._ignored, strict=True):
            label[(label == 0) & on_ignored(proposal, ignored)] = -1
        return matched, labels


def build_faster_rcnn(spec: DetectorSpec) -> Detector:
    """Faster R-CNN with ResNet-18 to -152, or MobileNetV3-Large, behind a feature pyramid."""
    sizes = spec.anchor_sizes or PUBLISHED_SIZES
    backbone_name = spec.name.removeprefix("fasterrcnn_").removesuffix("_fpn")
    if backbone_name == "mobilenet_v3_large":
        backbone = mobilenet_backbone(
            backbone_name=backbone_name, weights=None, fpn=True, norm_layer=nn.BatchNorm2d, trainable_layers=6
        )
        level_sizes: tuple[tuple[float, ...], ...] = (tuple(sizes),) * 3
    else:
        backbone = resnet_fpn_backbone(
            backbone_name=backbone_name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        level_sizes = tuple((size,) for size in sizes)
    dense = max(1000, 2 * spec.detections_per_view)
    network = FasterRCNN(
        backbone,
        spec.num_classes + 1,
        rpn_anchor_generator=Anchors(level_sizes, ((0.5, 1.0, 2.0),) * len(level_sizes)),
        rpn_pre_nms_top_n_test=dense,
        rpn_post_nms_top_n_test=dense,
        box_roi_pool=RoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2),
        box_score_thresh=spec.score_threshold,
        box_nms_thresh=spec.nms_iou_threshold,
        box_detections_per_img=spec.detections_per_view,
    )
    network.transform = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)
    # FasterRCNN builds these itself, from some thirty arguments: ours differ in methods, not in state.
    network.rpn.__class__, network.roi_heads.__class__ = RPN, RoIHeads
    network.rpn.head.__class__ = SinglePrecisionRPNHead
    network.roi_heads.box_predictor.__class__ = SinglePrecisionPredictor
    return Detector(network, background=True)
