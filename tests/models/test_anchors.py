from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilewise.models.anchors import SMALLEST_PIXELS, fit_anchor_sizes

PUBLISHED = (32.0, 64.0, 128.0, 256.0, 512.0)


def test_fit__published_do_without_objects() -> None:
    assert fit_anchor_sizes(PUBLISHED, np.zeros(0)) is None


@pytest.mark.parametrize("size", [32 / np.sqrt(2), 32.0, 900.0])
def test_fit__published_do_for_objects_they_match(size: float) -> None:
    assert fit_anchor_sizes(PUBLISHED, np.full(10, size + 1e-6)) is None


def test_fit__objects_of_one_size_double_from_map_to_map() -> None:
    assert fit_anchor_sizes(PUBLISHED, np.full(10, 8.0)) == (8, 16, 32, 64, 128)


def test_fit__grows_faster_to_reach_the_largest_objects() -> None:
    # the 5th percentile is 10 and the 99th 810: a factor of 3 over four steps
    sizes = np.concatenate([np.full(50, 10.0), np.full(50, 810.0)])
    assert fit_anchor_sizes((64.0, 128.0, 256.0, 512.0, 1024.0), sizes) == (10, 30, 90, 270, 810)


def test_fit__never_exceeds_the_published() -> None:
    sizes = np.concatenate([np.full(50, 10.0), np.full(50, 810.0)])
    assert fit_anchor_sizes(PUBLISHED, sizes) == (10, 30, 90, 256, 512)


def test_fit__one_tiny_object_in_a_hundred_does_not_count() -> None:
    sizes = np.concatenate([np.full(1, 2.0), np.full(99, 40.0)])
    assert fit_anchor_sizes(PUBLISHED, sizes) is None


def test_fit__keeps_to_the_smallest() -> None:
    fitted = fit_anchor_sizes(PUBLISHED, np.full(10, 0.5))
    assert fitted is not None
    assert fitted[0] == SMALLEST_PIXELS
    assert fit_anchor_sizes((0.2, 0.4), np.full(10, 0.001), smallest=0.05) == (0.05, 0.1)


@given(st.lists(st.floats(0.1, 2000), min_size=1, max_size=50))
def test_fit__is_increasing_and_within_bounds(sizes: list[float]) -> None:
    fitted = fit_anchor_sizes(PUBLISHED, np.array(sizes))
    if fitted is not None:
        assert len(fitted) == len(PUBLISHED)
        assert all(low < high for low, high in pairwise(fitted))
        assert all(SMALLEST_PIXELS <= size <= limit for size, limit in zip(fitted, PUBLISHED, strict=True))
