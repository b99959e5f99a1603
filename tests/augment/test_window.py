from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.arrays import Float32
from tilewise.augment.transform import Draft
from tilewise.augment.window import (
    MIN_SHARES,
    SSD_WINDOWS,
    TILE_WINDOWS,
    RandomWindow,
    Variety,
    random_window,
)
from tilewise.targets import Targets
from tilewise.views.view import Scaling, View, Window


def random_boxes(count: int, width: int, height: int, rng: np.random.Generator) -> Float32:
    corners = rng.random((count, 2, 2)) * (width, height)
    low, high = corners.min(axis=1), corners.max(axis=1)
    return np.concatenate([low, np.maximum(high, low + 0.5)], axis=1).astype(np.float32)


def contains_image(window: Window, width: int, height: int) -> bool:
    x0, y0, x1, y1 = window
    return x0 <= 0 and y0 <= 0 and x1 >= width and y1 >= height


sides = st.integers(1, 9000)


@settings(max_examples=300, deadline=None)
@given(sides, sides, st.integers(0, 30), st.integers(0, 2**32), st.sampled_from([SSD_WINDOWS, TILE_WINDOWS]))
def test_random_window__keeps_its_promises(
    width: int, height: int, count: int, seed: int, variety: Variety
) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(count, width, height, rng)
    x0, y0, x1, y1 = window = random_window(width, height, boxes, rng=rng, variety=variety)
    assert all(isinstance(value, int) for value in window)
    if contains_image(window, width, height):
        out = variety.largest_zoom_out
        assert x1 - x0 <= out * width and y1 - y0 <= out * height
        return
    assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    least = variety.smallest_crop
    assert x1 - x0 > least * width - 1 and y1 - y0 > least * height - 1
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    held = ((centres > (x0, y0)) & (centres < (x1, y1))).all(axis=1)
    assert held.any()
    shown = np.minimum(boxes[:, 2:], (x1, y1)) - np.maximum(boxes[:, :2], (x0, y0))
    shares = shown.prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert (shares[held] >= min(MIN_SHARES) - 1e-4).all()


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.integers(0, 2**32))
def test_random_window__without_objects_holds_the_image(width: int, height: int, seed: int) -> None:
    window = random_window(width, height, np.zeros((0, 4), np.float32), rng=np.random.default_rng(seed))
    assert contains_image(window, width, height)


def draw_many(count: int, seed: int = 0) -> list[Window]:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(10, 640, 480, np.random.default_rng(1))
    return [random_window(640, 480, boxes, rng=rng) for _ in range(count)]


def test_random_window__every_kind_occurs() -> None:
    windows = draw_many(400)
    whole = sum(window == (0, 0, 640, 480) for window in windows)
    zoomed = sum(contains_image(window, 640, 480) for window in windows) - whole
    assert 150 < zoomed < 250
    assert whole > 15 and 400 - zoomed - whole > 50
    assert any(window[0] < 0 and window[2] > 640 for window in windows)


def test_random_window__keeps_the_shape_roughly() -> None:
    for x0, y0, x1, y1 in draw_many(300):
        assert 0.49 < ((x1 - x0) / (y1 - y0)) / (640 / 480) < 2.04


def test_random_window__same_for_same_seed() -> None:
    assert draw_many(50) == draw_many(50)
    assert draw_many(50) != draw_many(50, seed=1)


def drawn(view: View, scaling: Scaling, side: int, seeds: range) -> list[View]:
    """Random windows of a view of an image with two objects."""
    boxes = np.array([[2, 2, 12, 12], [15, 15, 25, 30]], np.float32)
    draft = Draft(side, side, Targets(boxes, np.array([0, 1]), np.array([False, True])), view)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    changed = RandomWindow(scaling).change_drafts([draft] * len(rngs), rngs)
    return [each.view for each in changed if each.view]


def test_random_windows__are_scaled_no_larger_than_the_view() -> None:
    views = drawn(View((5, 5, 25, 35), (400, 600)), Scaling(min_size=600, max_size=1333), 40, range(50))
    assert len(views) == 50
    for view in views:
        assert min(view.size) <= 400 and max(view.size) <= 600
        assert view.scale[0] == pytest.approx(view.scale[1], rel=0.2)


def test_random_windows__a_tile_shows_objects_at_nearly_its_own_scale() -> None:
    factors = {}
    for window in ((0, 0, 400, 400), (0, 0, 200, 200)):
        view = View(window, (300, 300))
        views = drawn(view, Scaling(square=300), 400, range(300))
        factors[window[2]] = [each.scale[0] / view.scale[0] for each in views]
    assert min(factors[400]) < 0.6 and max(factors[400]) > 2  # of the whole image as SSD does it
    assert 0.79 < min(factors[200]) < 0.85 and 1.2 < max(factors[200]) < 1.44
