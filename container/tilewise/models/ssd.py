"""SSD (Liu et al., ECCV 2016) through torchvision, with VGG-16, ResNet-50 and MobileNetV3 (SSDlite)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, resnet50, vgg16
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG, SSDHead
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead

from tilewise.errors import UserError
from tilewise.models.anchor_generators import DefaultBoxes
from tilewise.models.anchor_network import AnchorNetwork, AnchorOutputs
from tilewise.models.box_learning import BoxLearning, image_sizes
from tilewise.models.detector import IMAGENET_MEAN, IMAGENET_STD, BatchImages, Detector
from tilewise.models.layers import BatchNorm
from tilewise.models.matching import (
    BoxCoder,
    anchors_on_ignored,
    count_found,
    match,
    matched_objects,
    of_matched,
    similarity,
    split_ignored,
)
from tilewise.models.postprocess import Candidates, best_scores, clip
from tilewise.models.spec import DetectorSpec
from tilewise.models.totals import mean_over_processes
from tilewise.suppression import Limits
from tilewise.targets import Targets
from tilewise.views.view import Scaling

VGG_300_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
VGG_512_SCALES = (0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05)
LITE_SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
SMALLEST_SIDE = 300
MIN_NEGATIVES = 32
"""The hardest anchors of an image that are taught to be background, however few objects it has."""
MATCHING_IOU = 0.5
NEGATIVES_PER_OBJECT = 3.0
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
VGG_HEAD_STD = 0.001
"""Of the weights of a fresh head on VGG-16: it begins undecided. ResNet-50 learns faster behind torchvision's
wider ones (benchmarks/README.md)."""


class SSDCriterion:
    """torchvision's loss, which also learns from images without objects and leaves ignored boxes alone.

    Smooth-L1 and cross-entropy with hard negative mining, both over the number of matched anchors. Where
    every image has at least ``min_negatives / 3`` matched anchors and no ignored box, it is torchvision's.

    Attributes:
        learning: what a job chooses of it.

    """

    learning = BoxLearning()

    def __init__(self, min_negatives: int = MIN_NEGATIVES) -> None:
        self.min_negatives = min_negatives
        self.matcher = SSDMatcher(MATCHING_IOU)
        self.box_coder = BoxCoder(BOX_WEIGHTS)

    def __call__(self, outputs: AnchorOutputs, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
        """``bbox_regression`` and ``classification``; class 0 of the outputs is background."""
        logits, deltas = outputs.heads["cls_logits"], outputs.heads["bbox_regression"]
        split, anchors = split_ignored(targets, first_label=1), torch.cat(outputs.anchors)
        matched = match(self.matcher, split, anchors, similar=similarity(self.learning))
        if self.learning.counts:
            count_found(self.learning.counts, matched, image_sizes(targets))
        excluded = anchors_on_ignored(split, anchors)
        foreground, classes, boxes = matched_objects(matched, split)
        box_targets = self.box_coder.encode_single(boxes.flatten(0, 1), anchors.repeat(len(boxes), 1))
        distance = F.smooth_l1_loss(deltas, box_targets.view_as(boxes), reduction="none").sum(dim=2)
        distance = self.learning.from_distance(
            distance, lambda: of_matched(matched, image_sizes(targets)), foreground
        )
        box_loss = torch.where(foreground, distance, 0).sum()
        class_loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none")
        class_loss = class_loss.view_as(classes)

        # Hard negatives: of each image the anchors that look most like an object and are none.
        count = (NEGATIVES_PER_OBJECT * foreground.sum(1, keepdim=True)).clamp(min=self.min_negatives)
        hardness = class_loss.detach().masked_fill(foreground | excluded, -1)
        rank = hardness.argsort(1, descending=True).argsort(1)
        background = (rank < count) & ~(foreground | excluded)

        counts = torch.stack([foreground.sum(), background.sum() / NEGATIVES_PER_OBJECT])
        positives = mean_over_processes(counts, at_least=1).max()
        return {
            "bbox_regression": box_loss / positives,
            "classification": torch.where(foreground | background, class_loss, 0).sum() / positives,
        }


class SSDPostprocess:
    """As torchvision's, for all images and classes at once; ``limits.candidates`` are those of a class."""

    def __init__(self, limits: Limits):
        self.limits, self.box_coder = limits, BoxCoder(BOX_WEIGHTS)

    def __call__(self, outputs: AnchorOutputs, sizes: Sequence[tuple[int, int]]) -> Candidates:
        """The candidates of each view of these (height, width)."""
        scores = outputs.heads["cls_logits"].softmax(dim=2)[..., 1:]
        best = best_scores(scores, self.limits.candidates, by_class=True)
        deltas, anchors = best.of(outputs.heads["bbox_regression"]), torch.cat(outputs.anchors)[best.priors]
        boxes = self.box_coder.decode_single(deltas.flatten(0, 1), anchors.flatten(0, 1))
        return Candidates(clip(boxes.view_as(deltas), sizes), best.scores, best.classes)


class ResNetFeatures(nn.Module):
    """ResNet-50 up to its third stage, which keeps stride 8, and smaller and smaller maps after it.

    NVIDIA's layout for 300 px (DeepLearningExamples, SSD v1.1), and one map more from 512 px on. MXNet's
    begins with stride 16 and has no map for small objects.
    """

    def __init__(self, *, highres: bool, stride_4_level: bool = False):
        super().__init__()
        self.stride_4_level = stride_4_level
        resnet = resnet50(weights=None, norm_layer=BatchNorm)
        first = resnet.layer3[0]
        first.conv2.stride = first.downsample[0].stride = (1, 1)
        layers = {"layer1": "stride_4"} if stride_4_level else {}
        self.body = IntermediateLayerGetter(resnet, {**layers, "layer3": "0"})
        # (from, between, to, stride): a stride of 1 has no padding, so that 5 pixels become 3, then 1
        widths = [(1024, 256, 512, 2), (512, 256, 512, 2), (512, 128, 256, 2)]
        widths += [(256, 128, 256, 2)] * 3 if highres else [(256, 128, 256, 1)] * 2
        self.extra = nn.ModuleList(_halving(*each) for each in widths)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Feature maps of (B, 3, H, W), finest first."""
        maps = self.body(batch)
        for level, block in enumerate(self.extra):
            maps[str(level + 1)] = block(maps[str(level)])
        return maps  # type: ignore[no-any-return]


def _halving(channels: int, between: int, out: int, stride: int) -> nn.Sequential:
    narrow = nn.Conv2d(channels, between, 1, bias=False)
    halve = nn.Conv2d(between, out, 3, stride, padding=stride - 1, bias=False)
    for convolution in (narrow, halve):
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(
        narrow, BatchNorm(between), nn.ReLU(inplace=True), halve, BatchNorm(out), nn.ReLU(inplace=True)
    )


def published_scales(name: str, scaling: Scaling, *, stride_4_level: bool) -> tuple[float, ...]:
    """The anchors' published √areas, as fractions of the side, one a map; at stride 4 half the first."""
    if name == "ssdlite_mobilenet_v3_large":
        scales: tuple[float, ...] = LITE_SCALES[:-1]
    else:
        assert scaling.square is not None
        scales = (VGG_512_SCALES if scaling.square >= 512 else VGG_300_SCALES)[:-1]
    return (scales[0] / 2, *scales) if stride_4_level else scales


def build_ssd(spec: DetectorSpec) -> Detector:
    """SSD with the layouts of 300 px (six feature maps) and, from 512 px on, of 512 px (seven).

    Raises:
        UserError: the image's side is too small for the model.

    """
    side = spec.scaling.square
    assert side is not None
    lite = spec.name == "ssdlite_mobilenet_v3_large"
    if not lite and side < SMALLEST_SIDE:
        raise UserError(f"image_size={side}: {spec.name} needs at least {SMALLEST_SIDE}")
    scales = list(LITE_SCALES if lite else VGG_512_SCALES if side >= 512 else VGG_300_SCALES)
    if spec.stride_4_level:
        scales = [scales[0] / 2, *scales]
    if spec.anchor_sizes is not None:
        # torchvision's second anchor of a map lies halfway to the next map's size, so there is one size more.
        scales = [*spec.anchor_sizes, min(1.05, 2 * spec.anchor_sizes[-1])]
    return (_lite if lite else _full)(spec, side, scales)


def _full(spec: DetectorSpec, side: int, scales: list[float]) -> Detector:
    highres = side >= 512
    ratios = [[2], [2, 3], [2, 3], [2, 3], *([[2, 3]] if highres else []), [2], [2]]
    steps = None
    if side in (300, 512):
        steps = [8, 16, 32, 64, 128, 256, 512] if highres else [8, 16, 32, 64, 100, 300]
    if spec.stride_4_level:
        ratios = [[2], *ratios]
        steps = [4, *steps] if steps else None
    if spec.name == "ssd_vgg16":
        backbone: nn.Module = SSDFeatureExtractorVGG(vgg16(weights=None).features, highres)
        if spec.stride_4_level:
            backbone = WithStride4(backbone, VGG_STRIDE_4)
        normalise = BatchImages(mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3)
    else:
        backbone, normalise = (
            ResNetFeatures(highres=highres, stride_4_level=spec.stride_4_level),
            BatchImages(IMAGENET_MEAN, IMAGENET_STD),
        )
    anchors: Any = DefaultBoxes(ratios, scales=scales, steps=steps)
    channels = det_utils.retrieve_out_channels(backbone, (side, side))
    head = SSDHead(channels, anchors.num_anchors_per_location(), spec.num_classes + 1)
    if spec.name == "ssd_vgg16":
        for convolution in head.modules():
            if isinstance(convolution, nn.Conv2d):
                nn.init.normal_(convolution.weight, std=VGG_HEAD_STD)
    return _detector(AnchorNetwork(backbone, anchors, head, background=True), normalise, spec)


def _lite(spec: DetectorSpec, side: int, scales: list[float]) -> Detector:
    norm_layer = partial(BatchNorm, eps=0.001, momentum=0.03)
    features = mobilenet_v3_large(weights=None, norm_layer=norm_layer, reduced_tail=True).features
    strided = [i for i, block in enumerate(features) if getattr(block, "_is_cn", False)]
    backbone = SSDLiteFeatureExtractorMobileNet(features, strided[-1], norm_layer)
    if spec.anchor_sizes is not None or spec.stride_4_level:
        _tap_stride_8(backbone, strided[-2])
    if spec.stride_4_level:
        _tap_stride_4(backbone, strided[-3])
    anchors: Any = DefaultBoxes([[2, 3]] * (len(scales) - 1), scales=scales)
    channels = det_utils.retrieve_out_channels(backbone, (side, side))
    head = SSDLiteHead(channels, anchors.num_anchors_per_location(), spec.num_classes + 1, norm_layer)
    normalise = BatchImages(mean=(0.5,) * 3, std=(0.5,) * 3)
    return _detector(AnchorNetwork(backbone, anchors, head, background=True), normalise, spec)


def _tap_stride_8(backbone: Any, block: int) -> None:
    """Give SSDlite one more feature map in front, at stride 8, and drop the last, of one pixel.

    Where anchors had to be made smaller than the published ones, stride 16 is too coarse: small objects share
    cells. As at stride 16, the map is what the block that halves it next expands it to.
    """
    to_16, rest = backbone.features
    halving = to_16[block].block
    to_8 = nn.Sequential(*to_16[:block], halving[0])
    backbone.features = nn.Sequential(to_8, nn.Sequential(*halving[1:], *to_16[block + 1 :]), rest)
    backbone.extra = backbone.extra[:-1]


def _tap_stride_4(backbone: Any, block: int) -> None:
    """Give SSDlite one more feature map in front, at stride 4: what the next halving block expands it to."""
    first, *rest = backbone.features
    halving = first[block].block
    to_4 = nn.Sequential(*first[:block], halving[0])
    backbone.features = nn.Sequential(to_4, nn.Sequential(*halving[1:], *first[block + 1 :]), *rest)


VGG_STRIDE_4 = 16
"""So many layers of VGG-16 end with conv3_3 and its ReLU, before the second halving after stride 4."""


class WithStride4(nn.Module):
    """torchvision's features of VGG-16, before them a map at stride 4: conv3_3, scaled as conv4_3 is.

    Args:
        ssd: torchvision's.
        layers: of its ``features`` that lead to stride 4.

    """

    def __init__(self, ssd: Any, layers: int):
        super().__init__()
        self.features, self.extra, self.scale_weight = ssd.features, ssd.extra, ssd.scale_weight
        self.layers = layers
        self.stride_4_weight = nn.Parameter(torch.ones(256) * 20)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        """Feature maps of (B, 3, H, W), finest first."""
        at_4 = self.features[: self.layers](batch)
        x = self.features[self.layers :](at_4)
        maps = [self.stride_4_weight.view(1, -1, 1, 1) * F.normalize(at_4)]
        maps.append(self.scale_weight.view(1, -1, 1, 1) * F.normalize(x))
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return {str(level): each for level, each in enumerate(maps)}


def _detector(network: nn.Module, transform: BatchImages, spec: DetectorSpec) -> Detector:
    limits = spec.limits(max(400, spec.detections_per_view))
    return Detector(network, transform, SSDCriterion(), SSDPostprocess(limits))
