"""Windows of images as tensors, cut and scaled on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from tilewise.views.arrays import FILL, Window, amid_fill, within, y_first

BAND_BYTES = 16 * 1024 * 1024
"""Larger windows are scaled in bands: what scaling needs beside the pixels stays this small."""


def cut_tensor(image: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """As :func:`tilewise.views.arrays.cut_array`, of (3, H, W) uint8."""
    x0, y0, x1, y1 = window
    left, top, right, bottom = within(window, image.shape[2], image.shape[1])
    inside = image[:, top:bottom, left:right]
    if inside.shape[-2:] == (y1 - y0, x1 - x0):
        return _scale(inside, *size)
    # bilinear scaling goes along x and along y: the sides of the second need no scaling along the first
    for axis in _axis_order(x1 - x0, y1 - y0, size):
        before, length = ((-y0, y1 - y0), (-x0, x1 - x0))[axis - 1]
        filled = _amid_fill(inside, axis, max(before, 0), length)
        inside = _scale_axis(filled, axis, size[2 - axis])
    return inside


def _amid_fill(pixels: Tensor, axis: int, before: int, length: int) -> Tensor:
    """``before`` times :data:`FILL`, the pixels, and more of it: of a length along an axis of (3, H, W)."""
    # colours last, as images are decoded: so they are scaled several times as fast
    if pixels.device.type == "cpu":
        filled = amid_fill(pixels.permute(1, 2, 0).numpy(), axis - 1, before, length)
        return torch.from_numpy(filled).permute(2, 0, 1)
    shape = [*pixels.shape]
    shape[axis] = length
    _, height, width = shape
    fill = torch.tensor(FILL, dtype=pixels.dtype, device=pixels.device)
    canvas = fill.repeat(width, 1).repeat(height, 1, 1).permute(2, 0, 1)
    canvas.narrow(axis, min(before, length), pixels.shape[axis]).copy_(pixels)
    return canvas


def _axis_order(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """The axes, 1 for y and 2 for x, in the order in which they are scaled."""
    return (1, 2) if y_first(width, height, size) else (2, 1)


def _scale(pixels: Tensor, width: int, height: int) -> Tensor:
    """(3, H, W) uint8 -> (3, height, width), bilinear, antialiased, as Pillow does it."""
    if pixels.shape[-2:] == (height, width):
        return pixels.clone()
    first, second = _axis_order(pixels.shape[2], pixels.shape[1], (width, height))
    if pixels.numel() <= BAND_BYTES and first == 2:
        return _resize(pixels, width, height)
    return _scale_axis(
        _scale_axis(pixels, first, (height, width)[first - 1]), second, (height, width)[second - 1]
    )


def _scale_axis(pixels: Tensor, axis: int, length: int) -> Tensor:
    """Scale along one axis of (3, H, W), a large image in bands along the other one."""
    across = 3 - axis
    size = [pixels.shape[1], pixels.shape[2]]
    size[axis - 1] = length
    lines = max(1, BAND_BYTES // (3 * pixels.shape[axis]))
    if pixels.shape[across] <= lines:
        return _resize(pixels, size[1], size[0])
    # colours last, as images are decoded
    scaled = torch.empty((*size, 3), dtype=pixels.dtype, device=pixels.device)
    for start in range(0, pixels.shape[across], lines):
        band = pixels.narrow(across, start, min(lines, pixels.shape[across] - start))
        sides = [band.shape[1], band.shape[2]]
        sides[axis - 1] = length
        into = scaled.narrow(across - 1, start, band.shape[across])
        into.copy_(_resize(band, sides[1], sides[0]).permute(1, 2, 0))
    return scaled.permute(2, 0, 1)


def _resize(pixels: Tensor, width: int, height: int) -> Tensor:
    # a window's rows lie apart in its image's memory: PyTorch scales them twice as fast side by side
    side_by_side = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    scaled: Tensor = F.resize_image(side_by_side, [height, width], antialias=True)
    return scaled
