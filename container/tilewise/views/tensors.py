"""Windows of images as tensors, cut and scaled on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from tilewise.views.arrays import FILL, Window

BAND_BYTES = 16 * 1024 * 1024
"""Larger windows are scaled in bands: what scaling needs beside the pixels stays this small."""


def cut_tensor(image: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """As :func:`tilewise.views.arrays.cut_array`, of (3, H, W) uint8."""
    x0, y0, x1, y1 = window
    height, width = image.shape[-2:]
    inside = image[:, max(y0, 0) : max(min(y1, height), 0), max(x0, 0) : max(min(x1, width), 0)]
    if inside.shape[-2:] == (y1 - y0, x1 - x0):
        return _scale(inside, *size)
    # bilinear scaling goes along x and along y: rows of FILL need only the latter
    rows = _scale(_amid_fill(inside, 2, max(-x0, 0), x1 - x0), size[0], inside.shape[1])
    return _scale(_amid_fill(rows, 1, max(-y0, 0), y1 - y0), *size)


def _amid_fill(pixels: Tensor, axis: int, before: int, length: int) -> Tensor:
    """``before`` times :data:`FILL`, the pixels, and more of it: of a length along an axis of (3, H, W)."""
    shape = [*pixels.shape]
    shape[axis] = length
    _, height, width = shape
    fill = torch.tensor(FILL, dtype=pixels.dtype, device=pixels.device)
    # colours last, as images are decoded: so they are scaled several times as fast
    canvas = fill.repeat(width, 1).repeat(height, 1, 1).permute(2, 0, 1)
    canvas.narrow(axis, min(before, length), pixels.shape[axis]).copy_(pixels)
    return canvas


def _scale(pixels: Tensor, width: int, height: int) -> Tensor:
    """(3, H, W) uint8 -> (3, height, width), bilinear, antialiased, as Pillow does it: first x, then y."""
    if pixels.shape[-2:] == (height, width):
        return pixels.clone()
    if pixels.numel() > BAND_BYTES:
        rows = max(1, BAND_BYTES // (3 * pixels.shape[2]))
        bands = [_resize(band, width, band.shape[1]) for band in pixels.split(rows, dim=1)]
        pixels = torch.cat([band.permute(1, 2, 0) for band in bands]).permute(2, 0, 1)
    return _resize(pixels, width, height)


def _resize(pixels: Tensor, width: int, height: int) -> Tensor:
    # a window's rows lie apart in its image's memory: PyTorch scales them twice as fast side by side
    side_by_side = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    scaled: Tensor = F.resize(side_by_side, [height, width], antialias=True)
    return scaled
