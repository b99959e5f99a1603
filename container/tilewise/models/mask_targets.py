from __future__ import annotations

import torch
from torch import Tensor

from tilewise.bitmaps import Bitmaps

MOST_SAMPLES = 4


@torch.no_grad()
def mask_targets(masks: Bitmaps, regions_P4: Tensor, sizes_P2: Tensor, *, side: int) -> Tensor:
    """What of each object's mask a region shows: what RoIAlign makes of the mask as a bitmap of the view.

    torchvision's ``project_masks_on_boxes``, which needs a bitmap of the whole view of each object. Here each
    has a grid around it. RoIAlign is the product of a sum over rows and one over columns: two products of
    matrices for all regions at once. A cell has at most four samples a side, as regions of up to 112 pixels
    have in torchvision.

    Args:
        masks: P, of the object that each region matches.
        regions_P4: in pixels of the view.
        sizes_P2: height and width of each one's view.
        side: of the mask that is learnt.

    Returns:
        (P, side, side) float32 from 0 to 1.

    """
    values = masks.values.float() / 255
    high, wide = values.shape[1:]
    down = _weights(regions_P4[:, 1::2], masks.frames[:, 1::2], sizes_P2[:, 0], high, side)
    across = _weights(regions_P4[:, 0::2], masks.frames[:, 0::2], sizes_P2[:, 1], wide, side)
    shown: Tensor = (down @ values @ across.transpose(1, 2)).clamp(0, 1)
    return shown


def _weights(region_P2: Tensor, frame_P2: Tensor, limit_P: Tensor, cells: int, side: int) -> Tensor:
    """Along one side: how much each cell of a grid counts in each cell of a region, (P, side, cells)."""
    device = region_P2.device
    start, length = region_P2[:, 0], (region_P2[:, 1] - region_P2[:, 0]).clamp(min=1)
    samples = (length / side).ceil().clamp(1, MOST_SAMPLES)[:, None, None]
    step = torch.arange(MOST_SAMPLES, device=device)[None, None]
    place = torch.arange(side, device=device)[None, :, None] + (step + 0.5) / samples
    place = start[:, None, None] + place * (length / side)[:, None, None]
    place = torch.minimum(place.clamp(min=0), (limit_P - 1)[:, None, None].to(place.dtype))
    # a pixel's value is RoIAlign's at the whole number of its place, which is half a pixel before its centre
    cell = ((frame_P2[:, 1] - frame_P2[:, 0]) / cells).clamp(min=1e-6)[:, None, None]
    place = (place + 0.5 - frame_P2[:, 0, None, None]) / cell - 0.5
    place = place.masked_fill(step >= samples, -2)
    hat = (1 - (place[..., None] - torch.arange(cells, device=device)).abs()).clamp(min=0)
    return hat.sum(dim=2) / samples
