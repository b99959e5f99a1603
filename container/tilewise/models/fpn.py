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


def receptive_fields(backbone: nn.Module) -> dict[int, float]:
    """By its stride, the side in pixels of the theoretical receptive field of each map of a pyramid.

    Each convolution widens it by its kernel's side less one, in steps of the map that it looks at. What the
    pyramid's own 3x3 convolutions add is left out, as in RFLA (Xu et al., ECCV 2022).

    Args:
        backbone: whose two last maps are made of the one before by a convolution, as :func:`resnet_pyramid`
            has it. RFLA takes Faster R-CNN's last map, which is but thinned out, for such a one, too.

    """
    side, stride, fields = 1.0, 1, {}
    for name, module in backbone.body.named_modules():  # type: ignore[union-attr]
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and "downsample" not in name:
            kernel, step = (
                each[0] if isinstance(each, tuple) else each for each in (module.kernel_size, module.stride)
            )
            side += (kernel - 1) * stride
            stride *= step
            fields[stride] = side
    for _ in range(2):
        side, stride = side + 2 * stride, 2 * stride
        fields[stride] = side
    return fields
