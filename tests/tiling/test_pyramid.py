from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.tiling.pyramid import choose_levels, choose_zooms, pyramid_views
from tilewise.tiling.spec import Level
from tilewise.views.view import Scaling, View

LEVELS = (Level(1, 120), Level(1.667, 32, 150), Level(3, 0, 80))  # SNIPER's, in pixels of the original image


def test_pyramid__ranges_are_in_pixels_of_the_original_image() -> None:
    views = pyramid_views(1000, 600, LEVELS, overlap=0.2, scaling=Scaling(square=512), training=True)
    assert views[0] == View((0, 0, 1000, 600), (512, 512), (120.0, math.inf))
    assert {view.object_sizes for view in views} == {(120.0, math.inf), (32.0, 150), (0.0, 80)}
    assert {view.size for view in views} == {(512, 512)}
    widths = {view.object_sizes: view.window[2] - view.window[0] for view in views}
    assert widths == {(120.0, math.inf): 1000, (32.0, 150): 600, (0.0, 80): 334}


def test_pyramid__below_1_the_image_lies_in_a_frame() -> None:
    levels = (Level(0.5, 200), Level(1, 0, 300))
    for scaling in (Scaling(square=512), Scaling(min_size=300, max_size=900)):
        small, whole = pyramid_views(1000, 601, levels, overlap=0.2, scaling=scaling, training=True)
        assert small == View((0, 0, 2000, 1202), scaling.size_of(1000, 601), (200.0, math.inf))
        assert whole.window == (0, 0, 1000, 601)
        assert small.scale[0] / whole.scale[0] == pytest.approx(0.5)
        assert small.boxes_from_image(np.array([[0, 0, 1000, 601]], np.float32))[0, 2] == small.size[0] / 2


def test_pyramid__believes_a_little_more_than_it_trains_on() -> None:
    views = pyramid_views(1000, 600, LEVELS, overlap=0.2, scaling=Scaling(square=512))
    assert {view.object_sizes for view in views} == {(96.0, math.inf), (25.6, 187.5), (0.0, 100.0)}


@settings(max_examples=60, deadline=None)
@given(st.integers(40, 2000), st.integers(40, 2000), st.floats(1, 6), st.floats(0, 0.5))
def test_pyramid__each_level_covers_the_image_at_its_zoom(
    width: int, height: int, zoom: float, overlap: float
) -> None:
    scaling = Scaling(min_size=300, max_size=900)
    views = pyramid_views(width, height, (Level(1), Level(zoom)), overlap=overlap, scaling=scaling)
    for views_of, factor in ((views[:1], 1.0), (views[1:], zoom)):
        for axis, side in ((0, width), (1, height)):
            covered = np.zeros(side, np.bool_)
            for view in views_of:
                covered[view.window[axis] : view.window[2 + axis]] = True
                length = view.window[2 + axis] - view.window[axis]
                assert 0 <= view.window[axis] and view.window[2 + axis] <= side
                assert side / factor <= length < side / factor + 1
            assert covered.all()


@pytest.mark.parametrize(
    ("seen", "zooms"),
    [
        ([], (1,)),
        ([40.0], (1,)),
        ([30.0], (1,)),
        ([20.0], (1, 1.6)),
        ([8.0], (1, 2, 4)),
        ([4.0], (1, 2.45, 6)),
        ([1.0], (1, 4, 16)),  # of a scene: at a zoom of 6 they would measure 6 px
    ],
)
def test_choose_zooms__until_the_objects_are_resolved(seen: list[float], zooms: tuple[float, ...]) -> None:
    assert choose_zooms(np.array(seen), smallest_object=32) == zooms


def test_choose_levels__ranges_overlap_and_leave_no_size_out() -> None:
    sizes = np.geomspace(5, 500, 200)
    levels = choose_levels((1, 2, 4), scale=0.5, smallest_object=32, sizes=sizes)
    # the borders: 64 px in a view are 64 / (0.5 * sqrt(2)) and 64 / (0.5 * sqrt(8)) px of the image
    assert levels == (Level(1, 60.3, None), Level(2, 30.2, 135.8), Level(4, 0.0, 67.9))
    for size in sizes:
        assert any(low <= size < high for low, high in (level.trains_on for level in levels))


def test_choose_levels__leaves_out_what_no_object_falls_to() -> None:
    assert choose_levels((1, 2, 4), 0.5, 32, sizes=np.array([8.0, 9, 10])) == (Level(4),)
    assert choose_levels((1, 2, 4), 0.5, 32, sizes=np.array([300.0])) == (Level(1),)
    assert choose_levels((0.5, 1), 0.5, 32, sizes=np.array([50.0, 500])) == (
        Level(0.5, 120.7, None),
        Level(1, 0, 271.5),
    )
    assert choose_levels((1, 2, 4), 0.5, 32, sizes=np.array([8.0, 300])) == (
        Level(1, 42.7, None),
        Level(4, 0, 96.0),
    )
