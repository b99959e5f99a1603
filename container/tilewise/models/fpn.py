from __future__ import annotations

from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7


def resnet_pyramid(resnet: str, *, stride_4_level: bool) -> nn.Module:
    """A ResNet with a feature pyramid of 256 channels, as one-stage detectors have it.

    Args:
        resnet: ``resnet18`` and so on.
        stride_4_level: whether the maps, at strides 8, 16, 32, 64 and 128, begin with one at stride 4.

    """
    backbone: nn.Module = resnet_fpn_backbone(
        backbone_name=resnet,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[1, 2, 3, 4] if stride_4_level else [2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return backbone
