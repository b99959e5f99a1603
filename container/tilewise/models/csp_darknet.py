"""YOLOX's backbone and feature pyramid: CSPDarknet and a path aggregation network (arXiv 2107.08430).

Modules have the names of the published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tilewise.models.layers import BatchNorm


class ConvBlock(nn.Module):
    """Convolution, batch normalisation, SiLU; the map keeps its size, divided by the stride."""

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = BatchNorm(out, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> Tensor:
        """Of (B, channels, H, W)."""
        return nn.functional.silu(self.bn(self.conv(x)), inplace=True)


class SeparableBlock(nn.Module):
    """A convolution within each channel, then one across channels: nano's 3x3 convolutions."""

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1):
        super().__init__()
        self.dconv = ConvBlock(channels, channels, kernel, stride=stride, groups=channels)
        self.pconv = ConvBlock(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Of (B, channels, H, W)."""
        y: Tensor = self.pconv(self.dconv(x))
        return y


def block_3x3(channels: int, out: int, stride: int = 1, *, separable: bool) -> nn.Module:
    """A 3x3 convolution, whole or separable."""
    return (SeparableBlock if separable else ConvBlock)(channels, out, 3, stride=stride)


class Focus(nn.Module):
    """Every second pixel of every second row, four times, as channels; then a convolution.

    The published weights want blue first; images have red first.
    """

    def __init__(self, out: int):
        super().__init__()
        self.conv = ConvBlock(12, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Of (B, 3, H, W), at stride 2."""
        bgr = x.split(1, dim=1)[::-1]
        corners = [each[..., row::2, column::2] for column in (0, 1) for row in (0, 1) for each in bgr]
        y: Tensor = self.conv(torch.cat(corners, dim=1))
        return y


class Bottleneck(nn.Module):
    """A narrow and a wide convolution, with a shortcut or without."""

    def __init__(self, channels: int, *, shortcut: bool, separable: bool):
        super().__init__()
        self.conv1 = ConvBlock(channels, channels, 1)
        self.conv2 = block_3x3(channels, channels, separable=separable)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Of (B, channels, H, W)."""
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class CSPLayer(nn.Module):
    """Cross stage partial bottlenecks: half of the channels go through them, half around them."""

    def __init__(self, channels: int, out: int, depth: int, *, shortcut: bool, separable: bool):
        super().__init__()
        hidden = out // 2
        self.conv1 = ConvBlock(channels, hidden, 1)
        self.conv2 = ConvBlock(channels, hidden, 1)
        self.conv3 = ConvBlock(2 * hidden, out, 1)
        self.m = nn.Sequential(
            *(Bottleneck(hidden, shortcut=shortcut, separable=separable) for _ in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of (B, channels, H, W)."""
        y: Tensor = self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], dim=1))
        return y


class SpatialPyramid(nn.Module):
    """The map beside its maxima over 5, 9 and 13 pixels."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.conv1 = ConvBlock(channels, channels // 2, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(side, 1, side // 2) for side in (5, 9, 13))
        self.conv2 = ConvBlock(channels * 2, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Of (B, channels, H, W)."""
        x = self.conv1(x)
        y: Tensor = self.conv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))
        return y


class CSPDarknet(nn.Module):
    """Feature maps at strides 4, 8, 16 and 32."""

    def __init__(self, base: int, depth: int, *, separable: bool):
        super().__init__()
        widths = [base * 2**stage for stage in range(5)]
        self.stem = Focus(base)
        self.dark2 = self._stage(widths[0], depth, separable=separable)
        self.dark3 = self._stage(widths[1], 3 * depth, separable=separable)
        self.dark4 = self._stage(widths[2], 3 * depth, separable=separable)
        self.dark5 = nn.Sequential(
            block_3x3(widths[3], widths[4], 2, separable=separable),
            SpatialPyramid(widths[4], widths[4]),
            CSPLayer(widths[4], widths[4], depth, shortcut=False, separable=separable),
        )

    @staticmethod
    def _stage(channels: int, depth: int, *, separable: bool) -> nn.Sequential:
        return nn.Sequential(
            block_3x3(channels, 2 * channels, 2, separable=separable),
            CSPLayer(2 * channels, 2 * channels, depth, shortcut=True, separable=separable),
        )

    def forward(self, batch: Tensor) -> list[Tensor]:
        """Of (B, 3, H, W), whose sides are multiples of 32."""
        at_4 = self.dark2(self.stem(batch))
        at_8 = self.dark3(at_4)
        at_16 = self.dark4(at_8)
        return [at_4, at_8, at_16, self.dark5(at_16)]


class PathAggregation(nn.Module):
    """Coarse maps go down to the fine ones, and those up again (PAN; Liu et al., CVPR 2018).

    Args:
        base: channels of the backbone's first map; its last three have 4, 8 and 16 times as many.
        depth: bottlenecks in a stage.
        separable: whether 3x3 convolutions are.
        stride_4_level: whether the maps begin with one at stride 4, of twice ``base`` channels.

    """

    def __init__(self, base: int, depth: int, *, separable: bool, stride_4_level: bool = False):
        super().__init__()
        self.stride_4_level = stride_4_level
        fine, middle, coarse = 4 * base, 8 * base, 16 * base

        def layer(channels: int, out: int) -> CSPLayer:
            return CSPLayer(channels, out, depth, shortcut=False, separable=separable)

        self.backbone = CSPDarknet(base, depth, separable=separable)
        self.lateral_conv0 = ConvBlock(coarse, middle, 1)
        self.C3_p4 = layer(2 * middle, middle)
        self.reduce_conv1 = ConvBlock(middle, fine, 1)
        self.C3_p3 = layer(2 * fine, fine)
        self.bu_conv2 = block_3x3(fine, fine, 2, separable=separable)
        self.C3_n3 = layer(2 * fine, middle)
        self.bu_conv1 = block_3x3(middle, middle, 2, separable=separable)
        self.C3_n4 = layer(2 * middle, coarse)
        if stride_4_level:  # one step more both ways, as the others are
            finest = 2 * base
            self.reduce_conv2 = ConvBlock(fine, finest, 1)
            self.C3_p2 = layer(2 * finest, finest)
            self.bu_conv3 = block_3x3(finest, finest, 2, separable=separable)
            self.C3_n2 = layer(2 * finest, fine)

    def forward(self, batch: Tensor) -> list[Tensor]:
        """Feature maps of (B, 3, H, W) at strides 8, 16 and 32, or at 4 and these."""
        at_4, at_8, at_16, at_32 = self.backbone(batch)
        down_32 = self.lateral_conv0(at_32)
        down_16 = self.reduce_conv1(self.C3_p4(torch.cat([_double(down_32), at_16], dim=1)))
        fine = self.C3_p3(torch.cat([_double(down_16), at_8], dim=1))
        maps = []
        if self.stride_4_level:
            down_8 = self.reduce_conv2(fine)
            finest = self.C3_p2(torch.cat([_double(down_8), at_4], dim=1))
            fine = self.C3_n2(torch.cat([self.bu_conv3(finest), down_8], dim=1))
            maps = [finest]
        middle = self.C3_n3(torch.cat([self.bu_conv2(fine), down_16], dim=1))
        coarse = self.C3_n4(torch.cat([self.bu_conv1(middle), down_32], dim=1))
        return [*maps, fine, middle, coarse]


def _double(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="nearest")
