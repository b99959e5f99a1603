"""Faster R-CNN (Ren et al., NeurIPS 2015) with a feature pyramid, through torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList

from tilewise.models.anchor_generators import Anchors
from tilewise.models.box_learning import BoxLearning, image_sizes
from tilewise.models.detector import IMAGENET_MEAN, IMAGENET_STD, BatchImages, Criterion, Detector
from tilewise.models.fpn import receptive_fields
from tilewise.models.matching import BoxCoder, split_ignored
from tilewise.models.postprocess import Candidates, clip
from tilewise.models.roi_align import RoIAlign
from tilewise.models.roi_heads import (
    BOX_WEIGHTS,
    RegionOutputs,
    RoIHeads,
    SinglePrecisionPredictor,
    region_losses,
)
from tilewise.models.rpn import RPN, RPNOutputs, SinglePrecisionRPNHead, rpn_losses
from tilewise.models.spec import DetectorSpec
from tilewise.suppression import Limits
from tilewise.targets import Targets
from tilewise.views.view import Scaling

PUBLISHED_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
REGION_SIDE, REGION_FEATURES = 7, 1024
SMALLEST_SIDE = 0.01
"""In pixels; torchvision drops detections with a smaller one."""


class FasterRCNNOutputs(NamedTuple):
    """What the two stages make of a batch.

    Attributes:
        features: (B, C, h, w) feature maps by name, finest first.
        rpn: of the first stage: proposals.
        roi_heads: of the second: what they show.

    """

    features: dict[str, Tensor]
    rpn: RPNOutputs
    roi_heads: RegionOutputs

    def class_maps(self) -> list[Tensor]:
        """None: classes are said of regions, not of a map's cells."""
        return []


class FasterRCNN(nn.Module):
    """torchvision's Faster R-CNN without what surrounds it.

    Args:
        backbone: batch -> feature maps by name.
        rpn: the first stage.
        roi_heads: the second stage.

    """

    def __init__(self, backbone: nn.Module, rpn: RPN, roi_heads: RoIHeads):
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads

    def features(self, batch_BCHW: Tensor) -> dict[str, Tensor]:
        """The feature maps of a normalised batch by name, finest first."""
        maps: dict[str, Tensor] = self.backbone(batch_BCHW)
        return maps

    def forward(
        self,
        batch_BCHW: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        targets: Sequence[Targets[Tensor]] | None = None,
    ) -> FasterRCNNOutputs:
        """Of a normalised batch.

        Args:
            batch_BCHW: the views, padded.
            sizes: their (height, width), to which proposals are clipped; by default the batch's.
            targets: to learn from; which anchors and regions are is drawn at random.

        """
        height, width = batch_BCHW.shape[2:]
        images = ImageList(batch_BCHW, list(sizes or [(height, width)] * len(batch_BCHW)))
        features = self.features(batch_BCHW)
        split = None if targets is None else split_ignored(targets, first_label=1)
        learning = self.rpn.learning
        if split and targets and (learning.weighs or learning.counts):
            for target, of_image in zip(split, image_sizes(targets), strict=True):
                target["sizes"] = of_image
        rpn = self.rpn(images, features, split)
        roi_heads = self.roi_heads(features, rpn.proposals, images.image_sizes, split)
        return FasterRCNNOutputs(features, rpn, roi_heads)


class TwoStageDetector(Detector):
    """A detector whose network clips proposals to the views, and draws what to learn from by the targets."""

    slow_as_graph = True

    def learn_boxes(self, learning: BoxLearning) -> None:
        """See :meth:`Detector.learn_boxes`; the first stage draws by it, too."""
        super().learn_boxes(learning)
        network: Any = self.network
        network.rpn.learning = learning

    def outputs(
        self, batch: ImageList, targets: Sequence[Targets[Tensor]] | None = None
    ) -> FasterRCNNOutputs:
        """What the network makes of a batch; without targets there is nothing to learn from."""
        outputs: FasterRCNNOutputs = self.network(batch.tensors, batch.image_sizes, targets)
        return outputs


class FasterRCNNCriterion:
    """torchvision's losses, of the anchors and regions that the network has drawn to learn from.

    Attributes:
        learning: what a job chooses of it.

    """

    learning = BoxLearning()

    def __call__(self, outputs: FasterRCNNOutputs, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        """``loss_classifier``, ``loss_box_reg``, ``loss_objectness`` and ``loss_rpn_box_reg``."""
        rpn, regions = outputs.rpn, outputs.roi_heads
        assert rpn.sample is not None and regions.sample is not None
        first = rpn_losses(rpn.objectness, rpn.deltas, rpn.sample, learning=self.learning)
        return region_losses(regions.logits, regions.deltas, regions.sample, learning=self.learning) | first


class FasterRCNNPostprocess:
    """As torchvision's, for the whole batch at once; all classes of all regions are candidates."""

    def __init__(self, limits: Limits):
        self.limits, self.box_coder = limits, BoxCoder(BOX_WEIGHTS)

    def __call__(self, outputs: FasterRCNNOutputs, sizes: Sequence[tuple[int, int]]) -> Candidates:
        """The candidates of each view of these (height, width)."""
        regions, logits, deltas, _ = outputs.roi_heads
        scores = _by_view(logits.softmax(dim=1)[:, 1:], regions)
        boxes = self.box_coder.decode_single(deltas, torch.cat(regions)).unflatten(1, (-1, 4))[:, 1:]
        boxes = clip(_by_view(boxes, regions).flatten(1, 2), sizes)
        large = ((boxes[..., 2:] - boxes[..., :2]) >= SMALLEST_SIDE).all(dim=2)
        labels = torch.arange(scores.shape[2], device=scores.device).expand_as(scores)
        return Candidates(boxes, scores.flatten(1).where(large, 0), labels.flatten(1))


def _by_view(values: Tensor, regions: list[Tensor]) -> Tensor:
    """What belongs to the regions of a batch, (R, …) -> (B, most regions of a view, …), padded with 0."""
    if len(regions) == 1:
        return values[None]
    return pad_sequence(list(values.split([len(each) for each in regions])), batch_first=True)


def published_sizes(name: str, scaling: Scaling, *, stride_4_level: bool) -> tuple[float, ...]:
    """The anchors' published √areas in pixels, one a feature map."""
    return PUBLISHED_SIZES


def build_faster_rcnn(spec: DetectorSpec) -> Detector:
    """Faster R-CNN with ResNet-18 to -152, or MobileNetV3-Large, behind a feature pyramid."""
    return build_two_stage(
        spec, "fasterrcnn_", FasterRCNN, detector=TwoStageDetector, criterion=FasterRCNNCriterion()
    )


def build_two_stage(
    spec: DetectorSpec,
    prefix: str,
    network: type[FasterRCNN],
    *,
    detector: type[TwoStageDetector],
    criterion: Criterion,
) -> Detector:
    """Faster R-CNN, or what has its two stages and more.

    Args:
        spec: of the detector.
        prefix: what stands before the backbone in its name.
        network: made of backbone and the two stages.
        detector: made of the network.
        criterion: its losses.

    """
    sizes = spec.anchor_sizes or PUBLISHED_SIZES
    backbone_name = spec.name.removeprefix(prefix).removesuffix("_fpn")
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
    proposals = max(1000, 2 * spec.detections_per_view)
    anchors: Any = Anchors(level_sizes, ((0.5, 1.0, 2.0),) * len(level_sizes))
    # Random numbers initialise these: RPN head, box head, box predictor, in torchvision's order.
    rpn_head = SinglePrecisionRPNHead(backbone.out_channels, anchors.num_anchors_per_location()[0])
    box_head = TwoMLPHead(backbone.out_channels * REGION_SIDE**2, REGION_FEATURES)
    box_predictor = SinglePrecisionPredictor(REGION_FEATURES, spec.num_classes + 1)
    pool = RoIAlign(["0", "1", "2", "3"], output_size=REGION_SIDE, sampling_ratio=2)
    rpn = RPN(anchors, rpn_head, proposals, receptive_fields(backbone))
    stages = rpn, RoIHeads(pool, box_head, box_predictor)
    limits = spec.limits(proposals * spec.num_classes)
    transform = BatchImages(IMAGENET_MEAN, IMAGENET_STD, divisor=32)
    return detector(network(backbone, *stages), transform, criterion, FasterRCNNPostprocess(limits))
