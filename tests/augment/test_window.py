from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.arrays import Float32
from tilewise.augment.window import MIN_SHARES, SSD_WINDOWS, TILE_WINDOWS, Variety, Window, random_window


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
    x0, y0, x1, y1 = window = random_window(width, height, boxes, rng, variety)
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
    window = random_window(width, height, np.zeros((0, 4), np.float32), np.random.default_rng(seed))
    assert contains_image(window, width, height)


def draw_many(count: int, seed: int = 0) -> list[Window]:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(10, 640, 480, np.random.default_rng(1))
    return [random_window(640, 480, boxes, rng) for _ in range(count)]


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
