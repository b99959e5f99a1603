from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from tilewise.arrays import Array
from tilewise.bitmaps import Bitmaps
from tilewise.masks import GRID_SIDE, MASKS, Masks, Outline, RunLengths, Shape
from tilewise.rasters import (
    Bitmap,
    decode_runs,
    decompressed,
    encode,
    outline,
    part_of_runs,
    rasterise,
    runs_of,
)
from tilewise.targets import Targets

# pycocotools 2.0.11 hands NumPy 2 an array without its keyword copy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@st.composite
def bitmaps(draw: st.DrawFn) -> Bitmap:
    """Small ones with parts, holes and pixels that touch at a corner; at least one pixel is set."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    bitmap = (rng.random((height, width)) < draw(st.floats(0.1, 1))).astype(np.uint8)
    bitmap[rng.integers(height), rng.integers(width)] = 1
    return bitmap


def in_frame(bitmap: Bitmap, left: int, top: int, width: int, height: int) -> Bitmap:
    frame = np.zeros((height, width), np.uint8)
    frame[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
    return frame


def decoded(masks: Masks, width: int, height: int) -> list[Bitmap]:
    return [coco_masks.decode(one) for one in masks.encoded(width, height) if one is not None]


@settings(deadline=None)
@given(bitmaps(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_run_lengths__are_pycocotools_own(
    bitmap: Bitmap, left: int, top: int, right: int, bottom: int
) -> None:
    height, width = bitmap.shape[0] + top + bottom, bitmap.shape[1] + left + right
    frame = in_frame(bitmap, left, top, width, height)
    compressed = encode(bitmap, (left, top, 0, 0), width=width, height=height)
    assert compressed == coco_masks.encode(np.asfortranarray(frame))
    assert decompressed(compressed["counts"]).sum() == width * height
    assert np.array_equal(decode_runs(width, height, decompressed(compressed["counts"])), frame)
    part, x, y = part_of_runs(width, height, runs_of(frame))
    assert np.array_equal(in_frame(part, x, y, width, height), frame)


@settings(deadline=None)
@given(bitmaps())
def test_outline__is_the_bitmap_again(bitmap: Bitmap) -> None:
    height, width = bitmap.shape
    assert np.array_equal(rasterise(outline(bitmap), width, height, even_odd=True), bitmap)


@settings(deadline=None)
@given(st.integers(3, 40), st.integers(0, 1000))
def test_outline__keeps_its_limit(most: int, seed: int) -> None:
    noisy = (np.random.default_rng(seed).random((30, 30)) < 0.6).astype(np.uint8)
    rings = outline(noisy, most)
    assert rings and sum(map(len, rings)) <= most and min(map(len, rings)) >= 3


def test_outline__a_limit_costs_little() -> None:
    y, x = np.mgrid[:200, :200]
    disc = (((x - 100) ** 2 + (y - 100) ** 2) < 90**2).astype(np.uint8)
    (ring,) = outline(disc, 100)
    again = rasterise([ring], 200, 200)
    assert (again & disc).sum() / (again | disc).sum() > 0.98


def test_rasterise__as_coco_and_as_azure_have_it() -> None:
    outer, inner = ([[0, 0], [10, 0], [10, 10], [0, 10]], [[2, 2], [6, 2], [6, 6], [2, 6]])
    rings = [np.array(ring, float) for ring in (outer, inner)]
    assert rasterise(rings, 12, 12).sum() == 100
    assert rasterise(rings, 12, 12, even_odd=True).sum() == 84


@settings(deadline=None)
@given(bitmaps(), st.integers(0, 5), st.integers(0, 5))
def test_masks__mirrored_and_cut_out(bitmap: Bitmap, left: int, top: int) -> None:
    width, height = bitmap.shape[1] + left + 2, bitmap.shape[0] + top + 1
    frame = in_frame(bitmap, left, top, width, height)
    shapes: list[Shape] = [
        RunLengths(width, height, runs_of(frame)),
        Outline([ring + np.array([left, top]) for ring in outline(bitmap)], even_odd=True),
    ]
    for shape in shapes:
        masks = Masks.of([None, shape]).crop((0, 0, width, height), (width, height))
        assert np.array_equal(decoded(masks.flip(width), width, height)[0], frame[:, ::-1])
        window = (1, 1, width, height)
        cut = masks.crop(window, (width - 1, height - 1))
        assert np.array_equal(decoded(cut, width - 1, height - 1)[0], frame[1:, 1:])
        larger = masks.crop((0, 0, width, height), (2 * width, 2 * height))
        assert np.array_equal(
            decoded(larger, 2 * width, 2 * height)[0], frame.repeat(2, axis=0).repeat(2, axis=1)
        )


MIRRORED = np.array([[1.0, 0, 0], [0, -1, 30]])
QUARTER_TURN = np.array([[0.0, 1, 0], [-1, 0, 40]])
"""Of frames of 40 x 30 pixels: top to bottom, and counter-clockwise."""


@settings(deadline=None)
@given(bitmaps(), st.integers(0, 20), st.integers(0, 10))
def test_warp__mirrors_and_quarter_turns_are_exact(bitmap: Bitmap, left: int, top: int) -> None:
    whole = in_frame(bitmap, left, top, 40, 30)
    masks = Masks.of([RunLengths(40, 30, runs_of(whole)), None])
    upside_down, turned = masks.warp(MIRRORED, (40, 30)), masks.warp(QUARTER_TURN, (30, 40))
    assert not upside_down.known[1] and not turned.known[1]
    assert np.array_equal(decoded(upside_down, 40, 30)[0], whole[::-1])
    assert np.array_equal(decoded(turned, 30, 40)[0], np.rot90(whole))
    if not whole.any():
        return
    for grids in (masks.bitmaps(), masks.to("cpu")):
        around = np.asarray(grids.warp(QUARTER_TURN, (30, 40)).values)[0] > 0
        assert np.array_equal(around, np.rot90(np.asarray(grids.values)[0] > 0))
        x0, y0, x1, y1 = np.asarray(grids.frames)[0].tolist()
        assert np.asarray(grids.warp(QUARTER_TURN, (30, 40)).frames)[0].tolist() == [y0, 40 - x1, y1, 40 - x0]


def test_warp__turned_by_any_angle_outlines_and_run_lengths_stay_alike() -> None:
    ring = np.array([[10.0, 10], [50, 10], [50, 30], [10, 30]])
    outline = Masks.of([Outline([ring])])
    grid, _ = outline.grid(0)
    runs = Masks.of([RunLengths(40, 20, runs_of(grid), 10, 10)])
    cos, sin = np.cos(0.5), np.sin(0.5)
    matrix = np.array([[cos, -sin, 30], [sin, cos, 5]])
    one, other = (decoded(each.warp(matrix, (100, 100)), 100, 100)[0] > 0 for each in (outline, runs))
    cells = outline.bitmaps().warp(matrix, (100, 100))
    assert (one & other).sum() > 0.97 * (one | other).sum() and abs(int(one.sum()) - 800) < 25
    x0, y0, x1, y1 = cells.frames[0].tolist()
    high, wide = cells.values.shape[1:]
    area = (cells.values[0] > 0).mean() * (x1 - x0) * (y1 - y0)
    assert (high, wide) == (40, 40) and abs(area - 800) < 25


def test_masks__share_memory_and_are_packed_when_they_are_joined() -> None:
    square = [Outline([np.array([[x, x], [x + 4, x], [x + 4, x + 4], [x, x + 4]], float)]) for x in range(4)]
    masks = Masks.of([*square, None])
    assert masks.known.tolist() == [True] * 4 + [False]
    assert np.shares_memory(masks.select(slice(1, 3)).data, masks.data)
    some = Masks.cat([masks.select(np.array([3, 0])), masks.select(slice(4, 5)), masks.select(slice(0, 0))])
    assert some.boxes.tolist() == [[3, 3, 7, 7], [0, 0, 4, 4], [0, 0, 0, 0]]
    assert len(some.data) == 2 * len(masks.data) // 4
    assert [one.sum() for one in decoded(some, 20, 20)] == [16, 16]


def test_cat__what_comes_from_one_file_keeps_its_array() -> None:
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)
    masks = Masks.of([Outline([square + 3 * number]) for number in range(8)])
    parts = [masks.select(slice(start, start + 2)).crop((0, 0, 9, 9), (18, 18)) for start in range(0, 8, 2)]
    whole, half = Masks.cat(parts), Masks.cat(parts[2:])
    assert whole.data is masks.data and len(half.data) == len(masks.data) // 2
    latter = whole.select(slice(4, 8))
    for number, (one, other) in enumerate(zip(latter.shapes(), half.shapes(), strict=True), start=4):
        assert isinstance(one, Outline) and isinstance(other, Outline)
        assert one.rings[0].tolist() == other.rings[0].tolist() == (2 * (square + 3 * number)).tolist()


def test_to__a_grid_for_each_object() -> None:
    square = np.array([[10, 10], [14, 10], [14, 14], [10, 14]], float)
    large = np.array([[0, 0], [400, 0], [400, 200], [0, 200]], float)
    grids = Masks.of([Outline([square]), None, Outline([large])]).to("cpu")
    assert isinstance(grids.values, torch.Tensor) and grids.values.dtype == torch.uint8
    assert grids.values.shape == (3, GRID_SIDE, GRID_SIDE) and grids.known.tolist() == [True, False, True]
    assert (grids.values > 0).sum(dim=(1, 2)).tolist() == [16, 0, GRID_SIDE**2]
    assert grids.frames[0].tolist() == [10, 10, 10 + GRID_SIDE, 10 + GRID_SIDE]
    assert grids.frames[2].tolist() == [0, 0, 400, 200]
    flipped = grids.flip(500)
    assert flipped.values[0, :4, -4:].min() == 255 and flipped.frames[0, 2] == 490
    joined = Bitmaps.cat([grids.select(slice(0, 1)), Masks.of([Outline([square])]).to("cpu")])
    assert joined.values.shape == (2, GRID_SIDE, GRID_SIDE)
    assert joined.values[0].equal(joined.values[1]) and joined.frames[0].equal(joined.frames[1])


def test_crop__of_what_is_cut_the_mask_tells_box_and_share() -> None:
    rod = np.array([[0, 0], [4, 0], [100, 96], [100, 100], [96, 100], [0, 4]], float)
    corner = np.array([[60, 0], [100, 0], [100, 40]], float)
    boxes = np.array([[0, 0, 100, 100], [60, 0, 100, 40], [0, 0, 100, 100]], np.float32)
    masks = Masks.of([Outline([rod]), Outline([corner]), None])
    targets: Targets[Array] = Targets(boxes, np.arange(3), np.zeros(3, np.bool_), {MASKS: masks})
    seen = targets.crop((50, 0, 150, 100), (100, 100), 0.45)
    assert seen.labels.tolist() == [0, 1, 2]
    # without its mask the half of the rod would be said to reach from 0 to 100
    assert seen.boxes[0].tolist() == pytest.approx([0, 46, 50, 100], abs=1)
    assert seen.boxes[2].tolist() == [0, 0, 50, 100]
    assert seen.ignored.tolist() == [False, False, False]
    # a window that shows the box but nothing of the mask shows no object
    assert targets.crop((0, 60, 30, 100), (30, 40)).labels.tolist() == [2]


def test_outside_of_the_frame__nothing_is_drawn() -> None:
    beyond = Outline([np.array([[-5, -5], [5, -5], [5, 5], [-5, 5]], float)])
    masks = Masks.of([beyond]).crop((0, 0, 20, 20), (20, 20))
    assert decoded(masks, 20, 20)[0].sum() == 25
    assert (masks.to("cpu").values > 0).sum() == 25


def test_without_a_pixel__lines_and_slivers() -> None:
    square, line = [[10, 10], [30, 10], [30, 30], [10, 30]], [[10, 10], [30, 30], [10, 10]]
    sliver, thin = [[70, 10], [70.3, 10], [70.3, 30], [70, 30]], [[70, 10], [71.4, 10], [71.4, 30], [70, 30]]
    shapes = [Outline([np.array(ring, np.float64)]) for ring in (square, line, sliver, thin)]
    masks = Masks.of([*shapes, None, RunLengths(4, 4, np.array([5, 1, 10]))])
    assert masks.without_a_pixel((100, 80)).tolist() == [False, True, True, False, False, False]


def test_cut_off__nothing_is_left_beyond_the_frame() -> None:
    ring = np.array([[-50, 10], [30, 10], [30, 30], [-50, 30]], np.float64)
    masks = Masks.of([Outline([ring]), Outline([ring + 60])]).crop((0, 0, 100, 80), (100, 80))
    cut = masks.cut_off(np.array([True, False]))
    assert cut.boxes.tolist() == [[0, 10, 30, 30], [10, 70, 90, 90]]
    assert [one and one["counts"] for one in cut.encoded(100, 80)] == [
        one and one["counts"] for one in masks.encoded(100, 80)
    ]
    zoomed_out = cut.crop((-50, -40, 150, 120), (200, 160)).select(slice(1)).bitmaps()
    assert (zoomed_out.values > 0).sum() == 600


def test_grid__of_a_thin_mask_that_a_view_shows_at_a_third() -> None:
    for row in range(20, 60):
        bitmap = np.zeros((300, 400), np.uint8)
        bitmap[row, 50:250] = bitmap[row - 6 : row + 6, 150] = 1
        masks = Masks.of([RunLengths(400, 300, runs_of(bitmap))])
        (grid,) = masks.crop((0, 0, 400, 300), (133, 100)).bitmaps().values
        assert grid.any()


def test_grid__of_run_lengths_in_cells_of_several_pixels_is_what_most_of_them_are() -> None:
    bitmap = np.zeros((8, 8), np.uint8)
    bitmap[:4, :4], bitmap[0, 4:] = 1, 1
    masks = Masks.of([RunLengths(8, 8, runs_of(bitmap))]).crop((0, 0, 8, 8), (2, 2))
    assert (masks.bitmaps().values[0] > 0).tolist() == [[True, False]]


def test_cut__of_a_long_object_its_box_is_exact() -> None:
    rod = np.array([[0, 0], [10, 0], [2000, 1990], [2000, 2000], [1990, 2000], [0, 10]], np.float64)
    for left in range(0, 1500, 130):
        window = (left, left, left + 320, left + 320)
        shown = Masks.of([Outline([rod])]).crop(window, (320, 320))
        bitmap, _ = shown.grid(0)
        x, y = np.flatnonzero(bitmap.any(axis=0)), np.flatnonzero(bitmap.any(axis=1))
        boxes, _ = shown.cut(
            np.array([[0, 0, 320, 320]], np.float32), np.array([0.1], np.float32), (320, 320)
        )
        exact = [x[0], y[0], x[-1] + 1, y[-1] + 1]
        assert boxes[0].tolist() == pytest.approx(exact, abs=3.5)


def test_outline__specks_cost_an_object_none_of_its_points() -> None:
    y, x = np.mgrid[:100, :140]
    ellipse = (((x - 70) / 60) ** 2 + ((y - 50) / 40) ** 2 < 1).astype(np.uint8)
    for specks in (0, 3, 8, 40):
        bitmap = ellipse.copy()
        for number in range(specks):
            bitmap[3 * (number // 20), 3 + 6 * (number % 20)] = 1
        rings = outline(bitmap, 20)
        assert sum(map(len, rings)) <= 20
        again = rasterise(rings, 140, 100, even_odd=True)
        assert (again & bitmap).sum() / (again | bitmap).sum() > 0.95


def test_runs_of__a_large_bitmap_takes_little_more_than_itself() -> None:
    bitmap = np.zeros((2000, 3000), np.uint8)
    bitmap[100:1900, 50:2900] = 1
    tracemalloc.start()
    runs_of(bitmap)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * bitmap.nbytes
