from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.tiling.grid import grid_tile, grid_views, grid_windows
from tilewise.views.view import Scaling, View

sides = st.integers(8, 5000)
grids = st.tuples(st.integers(1, 6), st.integers(1, 6))
overlaps = st.floats(0, 0.9)


@pytest.mark.parametrize(
    ("size", "grid", "overlap", "windows"),
    [
        # 1000 / (0.25 + 0.75 * 3) = 400 wide, and 700 / (0.25 + 0.75 * 2) = 400 high: steps of 300
        (
            (1000, 700),
            (3, 2),
            0.25,
            [
                (0, 0, 400, 400),
                (0, 300, 400, 700),
                (300, 0, 700, 400),
                (300, 300, 700, 700),
                (600, 0, 1000, 400),
                (600, 300, 1000, 700),
            ],
        ),
        # without overlap: 100 / 3 = 33.33, corners rounded
        ((100, 50), (3, 1), 0.0, [(0, 0, 33, 50), (33, 0, 67, 50), (67, 0, 100, 50)]),
        # 640 / 1.75 = 365.71, a step of 274.29
        ((640, 480), (2, 1), 0.25, [(0, 0, 366, 480), (274, 0, 640, 480)]),
        ((10, 30), (1, 2), 0.5, [(0, 0, 10, 20), (0, 10, 10, 30)]),
    ],
)
def test_grid__by_hand(
    size: tuple[int, int],
    grid: tuple[int, int],
    overlap: float,
    windows: list[tuple[int, int, int, int]],
) -> None:
    assert grid_windows(*size, grid, overlap=overlap) == windows


def test_grid__as_published_on_1000_random_sizes() -> None:
    """Azure AutoML's formulas, written out with fractions of the image, without this module's functions."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        width, height = rng.integers(50, 9000, size=2).tolist()
        columns, rows = rng.integers(1, 7, size=2).tolist()
        overlap = float(rng.uniform(0, 0.95))
        tile_width = width / (overlap + (1 - overlap) * columns)
        tile_height = height / (overlap + (1 - overlap) * rows)
        expected = []
        for column in range(columns):  # x outer, y inner
            for row in range(rows):
                left, top = (1 - overlap) * tile_width * column, (1 - overlap) * tile_height * row
                expected.append((left, top, left + tile_width, top + tile_height))
        found = grid_windows(width, height, (columns, rows), overlap=overlap)
        assert len(found) == columns * rows
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.5 + 1e-6)


@settings(max_examples=200, deadline=None)
@given(sides, sides, grids, overlaps)
def test_grid__covers_every_pixel_and_stays_inside(
    width: int, height: int, grid: tuple[int, int], overlap: float
) -> None:
    windows = grid_windows(width, height, grid, overlap=overlap)
    for axis, side in ((0, width), (1, height)):
        ends = sorted({(window[axis], window[2 + axis]) for window in windows})
        assert ends[0][0] == 0 and ends[-1][1] == side
        assert all(start <= end for (_, end), (start, _) in pairwise(ends))
    assert len(set(windows)) == len({(a, c) for a, _, c, _ in windows}) * len(
        {(b, d) for _, b, _, d in windows}
    )


@settings(max_examples=200, deadline=None)
@given(sides, sides, grids, st.floats(0.1, 0.6), st.data())
def test_grid__holds_every_box_that_fits_into_the_overlap(
    width: int, height: int, grid: tuple[int, int], overlap: float, data: st.DataObject
) -> None:
    tile = grid_tile(width, height, grid, overlap=overlap)
    wide, high = (max(1, int(overlap * side) - 1) for side in tile)  # corners are rounded
    x, y = data.draw(st.integers(0, width - wide)), data.draw(st.integers(0, height - high))
    assert any(
        x0 <= x and y0 <= y and x + wide <= x1 and y + high <= y1
        for x0, y0, x1, y1 in grid_windows(width, height, grid, overlap=overlap)
    )


def test_grid__fewer_pixels_than_tiles() -> None:
    windows = grid_windows(2, 1, (5, 3), overlap=0.25)
    assert all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in windows)
    assert {x for x0, _, x1, _ in windows for x in range(x0, x1)} == {0, 1}


def test_grid_views__whole_image_first_and_tiles_of_one_size() -> None:
    views = grid_views(640, 481, (2, 3), overlap=0.25, scaling=Scaling(min_size=600, max_size=1333))
    assert views[0] == View((0, 0, 640, 481), (798, 600))
    assert len(views) == 7
    assert len({view.size for view in views[1:]}) == 1
    # 365.7 x 192.4 pixels a tile: the shorter side becomes 600
    assert views[1].size == (1140, 600)
    # the tiles themselves differ by a pixel
    assert {(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (view.window for view in views[1:])} == {
        (366, 192),
        (366, 193),
    }
