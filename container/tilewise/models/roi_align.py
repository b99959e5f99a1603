"""RoIAlign (He et al., ICCV 2017): what torchvision's computes, on a CPU in a fraction of its time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import _convert_to_roi_format, _setup_scales


class RoIAlign(MultiScaleRoIAlign):
    """torchvision's, which on a CPU reads its maps channel by channel, and so is slow both ways.

    On a GPU it is torchvision's own, unless algorithms have to be deterministic: its gradient adds up in any
    order, and torchvision's deterministic form is compiled first (94 s beside an H100, with a C compiler).

    A cell of a region is a weighted sum of a few pixels of a map. Here each is a bag of an ``embedding_bag``
    whose rows are the pixels of all maps, with all of their channels: one call for all levels and images, and
    maps stay in the memory format of the convolutions.
    """

    scales: list[float] | None
    map_levels: Any

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """As torchvision's: (K, C, 7, 7) of K boxes, those of all images."""
        maps = [features for name, features in x.items() if name in self.featmap_names]
        if torch.jit.is_tracing() or not sum(map(len, boxes)):  # a graph has torchvision's operator
            found: Tensor = super().forward(x, boxes, image_shapes)
            return found
        if self.scales is None or self.map_levels is None:
            self.scales, self.map_levels = _setup_scales(
                maps, image_shapes, self.canonical_scale, self.canonical_level
            )
        device = maps[0].device
        if device.type != "cpu" and not torch.are_deterministic_algorithms_enabled():
            return self._by_level(maps, boxes)
        every = torch.cat(boxes)
        levels = self.map_levels(boxes) if len(maps) > 1 else torch.zeros_like(every[:, 0], dtype=torch.int64)
        images = torch.cat(
            [torch.full((len(each),), number, device=device) for number, each in enumerate(boxes)]
        )
        index, weight = self._bags(maps, every, levels, images)
        channels = maps[0].shape[1]
        pixels = torch.cat([each.permute(0, 2, 3, 1).reshape(-1, channels) for each in maps])
        pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
        cells: Tensor = WeightedSums.apply(pixels, index, weight.to(pixels.dtype))
        rows, columns = self.output_size
        return cells.view(-1, rows, columns, channels).permute(0, 3, 1, 2)

    def _by_level(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """With torchvision's operator for each level; a GPU is asked once how many boxes each has."""
        assert self.scales is not None
        rois = _convert_to_roi_format(boxes)
        levels = self.map_levels(boxes) if len(maps) > 1 else torch.zeros_like(rois[:, 0])
        counts = (levels[:, None] == torch.arange(len(maps), device=levels.device)).sum(dim=0).tolist()
        order = levels.argsort(stable=True)
        pooled = [
            roi_align(features, rows, self.output_size, scale, self.sampling_ratio)
            for features, rows, scale in zip(maps, rois[order].split(counts), self.scales, strict=True)
        ]
        return torch.cat(pooled)[order.argsort()]

    @torch.no_grad()
    def _bags(
        self, maps: list[Tensor], boxes_K4: Tensor, levels_K: Tensor, images_K: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The pixels of each cell and their weights: both (K * rows * columns, 16) for two samples a side."""
        device = boxes_K4.device
        sizes = torch.tensor([each.shape[2:] for each in maps], device=device)
        areas = sizes.prod(dim=1)
        first = (areas * len(maps[0])).cumsum(0) - areas * len(maps[0])
        scales = torch.tensor(self.scales, dtype=torch.float32, device=device)[levels_K, None]
        height, width = sizes[levels_K].unbind(dim=1)
        low, high = (boxes_K4 * scales).split(2, dim=1)
        extent = (high - low).clamp(min=1)
        rows, columns = self.output_size
        samples = self.sampling_ratio
        y, y_weight = _samples(low[:, 1], extent[:, 1], rows, samples, height)  # (K, rows, 2 * samples)
        x, x_weight = _samples(low[:, 0], extent[:, 0], columns, samples, width)
        start = first[levels_K] + images_K * areas[levels_K]
        y = start[:, None, None] + y * width[:, None, None]
        index = y[:, :, None, :, None] + x[:, None, :, None, :]
        weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        bag = (2 * samples) ** 2
        return index.reshape(-1, bag), weight.reshape(-1, bag)


class WeightedSums(torch.autograd.Function):
    """Bags of rows; the gradient is one of the sums that each row is in, three times as fast as PyTorch's."""

    @staticmethod
    def forward(ctx: Any, rows_NC: Tensor, index_KB: Tensor, weights_KB: Tensor) -> Tensor:
        """The weighted sums: (K, C)."""
        ctx.save_for_backward(index_KB, weights_KB)
        ctx.count = len(rows_NC)
        return F.embedding_bag(index_KB, rows_NC, mode="sum", per_sample_weights=weights_KB)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """That of the rows: (N, C)."""
        index, weights = ctx.saved_tensors
        order = index.flatten().argsort(stable=True)
        counts = index.flatten().bincount(minlength=ctx.count)
        rows: Tensor = F.embedding_bag(
            order // index.shape[1],
            gradients[0].contiguous(),
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=weights.flatten()[order],
        )
        return rows, None, None


def _samples(
    low_K: Tensor, extent_K: Tensor, cells: int, samples: int, limit_K: Tensor
) -> tuple[Tensor, Tensor]:
    """Along one side: the two pixels beside each sample of each cell, and their weights.

    Samples more than a pixel outside of the map have no weight; others are moved to its border.

    Returns:
        Both (K, cells, 2 * samples); weights sum to at most 1.

    """
    offsets = (torch.arange(cells * samples, device=low_K.device) + 0.5) / (cells * samples)
    place = low_K[:, None] + offsets * extent_K[:, None]
    limit = limit_K[:, None]
    outside = (place < -1) | (place > limit)
    place = torch.minimum(place.clamp(min=0), limit - 1)
    below = place.floor()
    share = place - below
    weights = torch.stack([1 - share, share], dim=2).masked_fill(outside[..., None], 0) / samples
    pixels = below.long()
    pixels = torch.stack([pixels, torch.minimum(pixels + 1, limit - 1)], dim=2)
    return pixels.reshape(-1, cells, 2 * samples), weights.reshape(-1, cells, 2 * samples)
