from __future__ import annotations

import pytest
import torch
from fake_gpu import GPU, fake_gpu
from tilewise.models.roi_align import RoIAlign
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

SHAPES = [(96, 128), (90, 128)]


def make_maps(levels: int, channels_last: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = {}
    for level in range(levels):
        each = torch.randn(2, 8, 24 >> level, 32 >> level, generator=generator)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        maps[str(level)] = each.to(memory_format=memory_format).requires_grad_()
    return maps


def make_boxes(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(2, count, 2, generator=generator) * 140 - 12  # some begin or end outside
    sides = torch.rand(2, count, 2, generator=generator) ** 3 * 120
    return list(torch.cat([corner, corner + sides], dim=2))


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("channels_last", [True, False])
def test_roi_align__is_torchvisions_with_its_gradients(levels: int, channels_last: bool) -> None:
    names = [str(level) for level in range(levels)]
    found = []
    for kind in (RoIAlign, MultiScaleRoIAlign):
        maps, boxes = make_maps(levels, channels_last), make_boxes(60)
        boxes[1] = boxes[1][:7]
        cells = kind(names, 7, 2)(maps, boxes, SHAPES)
        weights = torch.randn(cells.shape, generator=torch.Generator().manual_seed(1))
        (cells * weights).sum().backward()
        found.append([cells.detach(), *(each.grad for each in maps.values())])
    assert found[0][0].shape == (67, 8, 7, 7)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_roi_align__leaves_other_maps_alone_and_takes_images_without_boxes() -> None:
    maps = {**make_maps(2, True), "pool": torch.randn(2, 8, 3, 4)}
    pool = RoIAlign(["0", "1"], 7, 2)
    boxes = [torch.zeros(0, 4), torch.tensor([[8.0, 8, 40, 40]])]
    theirs = MultiScaleRoIAlign(["0", "1"], 7, 2)(maps, boxes, SHAPES)
    torch.testing.assert_close(pool(maps, boxes, SHAPES), theirs)
    assert pool(maps, [torch.zeros(0, 4)] * 2, SHAPES).shape == (0, 8, 7, 7)


@pytest.mark.parametrize("levels", [1, 3])
def test_roi_align__by_levels_as_on_a_gpu_is_torchvisions(levels: int) -> None:
    names = [str(level) for level in range(levels)]
    maps, boxes = make_maps(levels, channels_last=False), make_boxes(60)
    theirs = MultiScaleRoIAlign(names, 7, 2)(maps, boxes, SHAPES)
    pool = RoIAlign(names, 7, 2)
    pool(maps, boxes, SHAPES)  # finds the levels' scales
    torch.testing.assert_close(pool._by_level(list(maps.values()), boxes), theirs)


def test_roi_align__on_a_gpu_with_deterministic_algorithms_as_on_a_cpu() -> None:
    maps, boxes = make_maps(3, channels_last=True), make_boxes(60)
    pool = RoIAlign(list(maps), 7, 2)
    here = pool(maps, boxes, SHAPES)
    torch.use_deterministic_algorithms(True)
    try:
        with fake_gpu():
            there = pool(
                {name: each.detach().to(GPU) for name, each in maps.items()},
                [each.to(GPU) for each in boxes],
                SHAPES,
            )
            found = there.cpu()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found, here)
