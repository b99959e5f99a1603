"""Faster R-CNN (Ren et al., NeurIPS 2015) with a feature pyramid, through torchvision."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone

from tilewise.models.anchor_generators import Anchors
from tilewise.models.detector import IMAGENET_MEAN, IMAGENET_STD, BatchImages, Detector, Target
from tilewise.models.matching import BoxCoder, Matcher
from tilewise.models.roi_align import RoIAlign
from tilewise.models.roi_heads import RoIHeads, SinglePrecisionPredictor
from tilewise.models.rpn import RPN, Sampler, SinglePrecisionRPNHead
from tilewise.models.spec import DetectorSpec
from tilewise.views.view import Scaling

PUBLISHED_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)


class FasterRCNN(TorchvisionFasterRCNN):
    """torchvision's; in training it looks for no box without area in every image: samples have none."""

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """As torchvision's: losses in training, else what is found in each image."""
        if not self.training:
            return super().forward(images)
        batch, targets = self.transform(images, targets)
        maps = self.backbone(batch.tensors)
        proposals, losses = self.rpn(batch, maps, targets)
        return self.roi_heads(maps, proposals, batch.image_sizes, targets)[1] | losses


def published_sizes(name: str, scaling: Scaling, stride_4_level: bool) -> tuple[float, ...]:
    """The anchors' published √areas in pixels, one a feature map."""
    return PUBLISHED_SIZES


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
    network.rpn.proposal_matcher.__class__ = Matcher
    for stage in (network.rpn, network.roi_heads):
        stage.box_coder.__class__, stage.fg_bg_sampler.__class__ = BoxCoder, Sampler
    return Detector(network, background=True)
