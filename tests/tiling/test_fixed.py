from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.tiling.fixed import fixed_views, fixed_windows
from tilewise.views.view import Scaling, View


@pytest.mark.parametrize(
    ("length", "overlap", "starts"),
    [
        (1000, 0.2, [0, 320, 600]),  # 640 would end at 1040: moved inside
        (720, 0.2, [0, 320]),
        (400, 0.2, [0]),
        (401, 0.2, [0, 1]),
        (300, 0.2, [0]),  # reaches beyond the image
        (1200, 0.0, [0, 400, 800]),
    ],
)
def test_fixed__by_hand(length: int, overlap: float, starts: list[int]) -> None:
    windows = fixed_windows(length, 10, (400, 10), overlap=overlap)
    assert windows == [(start, 0, start + 400, 10) for start in starts]
    windows = fixed_windows(10, length, (10, 400), overlap=overlap)
    assert windows == [(0, start, 10, start + 400) for start in starts]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 900), st.floats(0, 0.8))
def test_fixed__covers_every_pixel_with_tiles_of_one_size(
    width: int, height: int, tile: int, overlap: float
) -> None:
    windows = fixed_windows(width, height, (tile, tile), overlap=overlap)
    assert len(set(windows)) == len(windows)
    for axis, side in ((0, width), (1, height)):
        covered = np.zeros(side, np.bool_)
        for window in windows:
            assert window[2 + axis] - window[axis] == tile
            assert window[axis] >= 0
            assert window[2 + axis] <= max(side, tile)
            covered[window[axis] : window[2 + axis]] = True
        assert covered.all()


@settings(max_examples=150, deadline=None)
@given(st.integers(100, 3000), st.integers(50, 90), st.integers(100, 500), st.floats(0.1, 0.8), st.data())
def test_fixed__holds_every_box_that_fits_into_the_overlap(
    width: int, height: int, tile: int, overlap: float, data: st.DataObject
) -> None:
    box = min(int(tile * overlap), width)
    x = data.draw(st.integers(0, width - box))
    windows = fixed_windows(width, height, (tile, tile), overlap=overlap)
    assert any(x0 <= x and x + box <= x1 for x0, _, x1, _ in windows)


def test_fixed__an_image_of_one_tile_is_looked_at_once() -> None:
    views = fixed_views(200, 200, 200, overlap=0.25, scaling=Scaling(square=320))
    assert views == [View((0, 0, 200, 200), (320, 320))]


def test_fixed__large_images_get_more_tiles_of_the_same_scale() -> None:
    scaling = Scaling(square=320)
    small, large = (
        fixed_views(*size, 200, overlap=0.25, scaling=scaling) for size in ((150, 100), (800, 600))
    )
    assert small == [View((0, 0, 150, 100), (320, 320)), View((0, 0, 200, 200), (320, 320))]
    assert len(large) == 1 + 5 * 4
    assert {view.scale for view in [*small[1:], *large[1:]]} == {(1.6, 1.6)}
