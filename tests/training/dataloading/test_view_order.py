from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.training.dataloading.view_order import (
    Item,
    images_in,
    index_of,
    measure_order,
    pool_size,
    spread,
)
from tilewise.views.view import View


def items_of(counts: list[int]) -> list[list[Item]]:
    """Views that can be told apart by their windows."""
    return [
        [(index, View((number, 0, number + 1, 1), (1, 1)), 7) for number in range(count)]
        for index, count in enumerate(counts)
    ]


def drawn(counts: list[int], batch_size: int, lanes: int, pool: int, seed: int = 0) -> list[list[Item]]:
    return spread(items_of(counts), batch_size, lanes, pool=pool, rng=np.random.default_rng(seed))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 2**32),
)
def test_spread__whole_batches_of_every_view_once(
    counts: list[int], batch_size: int, lanes: int, pool: int, seed: int
) -> None:
    batches = drawn(counts, batch_size, lanes, pool, seed)
    assert len(batches) == -(-sum(counts) // batch_size)
    assert all(len(batch) == batch_size for batch in batches)
    seen = Counter((index, view) for batch in batches for index, view, _ in batch)
    assert set(seen) == {(index, view) for image in items_of(counts) for index, view, _ in image}
    assert sum(seen.values()) - len(seen) == -sum(counts) % batch_size  # those that fill up the last batch


def test_spread__by_seed_alone() -> None:
    assert drawn([7] * 20, 4, 2, 8, 1) == drawn([7] * 20, 4, 2, 8, 1)
    assert drawn([7] * 20, 4, 2, 8, 1) != drawn([7] * 20, 4, 2, 8, 2)


@pytest.mark.parametrize(("batch_size", "lanes"), [(2, 1), (8, 1), (8, 3), (32, 4)])
def test_spread__one_decode_for_all_views_of_an_image_and_batches_of_different_images(
    batch_size: int, lanes: int
) -> None:
    """200 images of 7 views each, as a 3x2 grid has them, with room for eight batches of images."""
    cached = 8 * batch_size
    batches = drawn([7] * 200, batch_size, lanes, pool_size(batch_size, cached))
    figures = measure_order(batches, lanes, cached)
    assert figures.decodes_per_view < 1.1 / 7
    assert figures.images_per_batch > 0.9 * batch_size


def test_spread__few_images_and_many_lanes() -> None:
    """Each lane has as many views: 3 images of 700 views, of which one lane's worth is 300, for 7 lanes."""
    figures = measure_order(drawn([700] * 3, 10, 7, 1), 7, 1)
    assert figures.decodes_per_view == (3 + 6) / 2100  # six times an image goes on in the next lane


@pytest.mark.parametrize("seed", range(5))
def test_spread__the_end_of_an_epoch_is_as_mixed_as_the_rest(seed: int) -> None:
    """60 images of 6 views and 10 of 40: 53 % of the views are of large images."""
    batches = drawn([6] * 60 + [40] * 10, 4, 1, pool=40, seed=seed)
    end = [index_of(image) for batch in batches[-24:] for image, _, _ in batch]
    assert sum(index >= 60 for index in end) / len(end) < 0.9
    assert len(set(end)) > 20


@pytest.mark.parametrize("cached", [1, 2, 4, 6])
def test_spread__large_images_share_batches_as_far_as_the_cache_has_room(cached: int) -> None:
    """Up to half of a batch's views are of different images, and each image is decoded about once."""
    figures = measure_order(drawn([70] * 50, 8, 1, pool_size(8, cached)), 1, cached)
    assert figures.images_per_batch > 0.9 * min(4, cached)
    assert figures.decodes_per_view < 2 / 70
    everything_apart = measure_order(drawn([70] * 50, 8, 1, 10**6), 1, cached)
    assert everything_apart.decodes_per_view > 0.75  # what a plain shuffle costs


def test_measure_order__by_hand() -> None:
    def batch(*indices: int) -> list[Item]:
        return [(index, None, 0) for index in indices]

    figures = measure_order([batch(0, 1), batch(0, 0), batch(2, 1), batch(0, 2)], 1, 2)
    assert figures.decodes_per_view == 6 / 8  # all but the two of the second batch
    assert figures.images_per_batch == 7 / 4
    # dealt to two lanes: 0 1 2 1 and 0 0 0 2
    assert measure_order([batch(0, 1), batch(0, 0), batch(2, 1), batch(0, 2)], 2, 2).decodes_per_view == 5 / 8
    assert measure_order([], 1, 2).images_per_batch == 0


def test_pool_size__follows_the_cache_within_limits() -> None:
    assert [pool_size(8, cached) for cached in (0, 1, 2, 6, 20, 1000)] == [1, 1, 2, 4, 10, 256]
    assert pool_size(1, 0) == 1
    assert images_in(1000, np.array([[10, 10], [5, 5], [20, 20]])) == 3
