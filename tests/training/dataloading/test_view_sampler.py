from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tilewise.data.records import Record, Records
from tilewise.targets import Targets
from tilewise.tiling.spec import Level, Tiling
from tilewise.training.dataloading.view_sampler import TrainingViews, ViewPlanner, ViewSampler
from tilewise.views.sample import make_sample
from tilewise.views.view import Scaling, View

SCALING = Scaling(square=64)
GRID = Tiling("grid", grid=(2, 2), overlap=0.0)
PYRAMID = Tiling("pyramid", levels=(Level(1, 60.0), Level(4, 0.0, 60.0)), overlap=0.0)


def record(*boxes: tuple[float, ...], ignored: bool = False, size: int = 400) -> Record:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    labels, marks = np.zeros(len(rows), np.int64), np.full(len(rows), ignored)
    return Record("a.png", Path("a.png"), size, size, Targets(rows, labels, marks))


def draw(
    views: TrainingViews, tiling: Tiling, *records: Record, ratio: float = 0.0, **more: object
) -> list[list[View]]:
    planner = ViewPlanner(views, tiling, SCALING, None, ratio, 0.4, **more)  # type: ignore[arg-type]
    return planner.draw(Records(records), np.random.default_rng(0))


def windows(views: list[View]) -> list[tuple[int, int, int, int]]:
    return [view.window for view in views]


WHOLE = (0, 0, 400, 400)


def test_grid__whole_images_and_the_tiles_with_objects() -> None:
    one = record((10, 10, 30, 30), (210, 210, 230, 230))
    in_two = record((170, 10, 230, 30), ignored=False)  # half of it in each of the upper tiles
    mostly = record((195, 10, 230, 30))  # a seventh of it in the left one
    none = record()
    drawn = draw("grid", GRID, one, in_two, mostly, none)
    assert windows(drawn[0]) == [WHOLE, (0, 0, 200, 200), (200, 200, 400, 400)]
    assert windows(drawn[1]) == [WHOLE, (0, 0, 200, 200), (200, 0, 400, 200)]
    assert windows(drawn[2]) == [WHOLE, (200, 0, 400, 200)]
    assert windows(drawn[3]) == [WHOLE]


def test_grid__whole_images_for_large_objects_where_there_are_some() -> None:
    tiling = Tiling("grid", grid=(2, 2), overlap=0.0, whole_from=100)
    small, large = record((10, 10, 30, 30)), record((10, 10, 150, 150))
    drawn = draw("grid", tiling, small, large, record())
    assert windows(drawn[0]) == [(0, 0, 200, 200)]
    assert windows(drawn[1]) == [WHOLE, (0, 0, 200, 200)]
    assert drawn[1][0].object_sizes == (100, np.inf)
    assert drawn[2] == []
    empty = draw("grid", tiling, small, large, record(), ratio=9)
    assert WHOLE in windows(empty[0]) and WHOLE in windows(empty[2])


def test_grid__ignored_boxes_are_no_objects() -> None:
    (drawn,) = draw("grid", GRID, record((10, 10, 30, 30), ignored=True))
    assert windows(drawn) == [WHOLE]


@pytest.mark.parametrize(("ratio", "empty"), [(0.0, 0), (0.5, 10), (1.0, 20), (9.0, 32)])
def test_grid__empty_tiles_take_part_by_the_ratio(ratio: float, empty: int) -> None:
    """Twelve images, eight of them with an object in one tile: 20 views with objects or whole, 40 without."""
    records = [record((10, 10, 30, 30))] * 8 + [record()] * 2
    drawn = draw("grid", GRID, *records, ratio=ratio)
    assert sum(map(len, drawn)) == 18 + min(round(ratio * 18), 32)


def test_grid__a_tile_that_shows_less_than_a_pixel_of_an_object_is_empty() -> None:
    """A tile of 2286 px is shown at 64 px: of its objects 3 px are nothing, and 60 px nearly two."""
    tiling = Tiling("grid", grid=(2, 2), overlap=0.0)
    tiny, small = (10, 10, 13, 13), (3000, 3000, 3060, 3060)
    (drawn,) = draw("grid", tiling, record(tiny, small, size=4572))
    assert windows(drawn) == [(0, 0, 4572, 4572), (2286, 2286, 4572, 4572)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["grid", "snip"]))
def test_views_with_objects__are_those_whose_samples_have_some(seed: int, views: TrainingViews) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.random((4, 2)) * 390
    boxes = np.concatenate([corners, np.minimum(400, corners + rng.random((4, 2)) * 30)], axis=1)
    one = record(*boxes.tolist())
    # with whole_from the whole image has to earn its place too
    tiling = replace(GRID, whole_from=20.0) if views == "grid" else PYRAMID
    planner = ViewPlanner(views, tiling, SCALING, None, 9.0, 0.4)  # 9: all views
    image = torch.zeros(3, 400, 400, dtype=torch.uint8)
    every = {view for drawn in planner.draw(Records([one]), rng) for view in drawn}
    full = {
        view for drawn in replace(planner, negative_ratio=0.0).draw(Records([one]), rng) for view in drawn
    }

    def has_object(view: View) -> bool:
        sample = make_sample(image, one.targets, view, min_visibility=0.4)
        return not bool(sample.targets.ignored.all())

    with_object = {view for view in every if has_object(view)}
    assume(with_object)  # where there is none an empty view is trained on
    assert full == with_object


def test_fixed__as_the_grid() -> None:
    tiling = Tiling("fixed", tile_size=200, overlap=0.0)
    (drawn,) = draw("fixed", tiling, record((10, 210, 30, 230)))
    assert windows(drawn) == [WHOLE, (0, 200, 200, 400)]


def test_snip__each_level_where_its_objects_are() -> None:
    drawn = draw("snip", PYRAMID, record((10, 10, 30, 30), (100, 100, 300, 300)), record((10, 10, 30, 30)))
    assert windows(drawn[0]) == [WHOLE, (0, 0, 100, 100)]
    assert [view.object_sizes for view in drawn[0]] == [(60, np.inf), (0, 60)]
    assert windows(drawn[1]) == [(0, 0, 100, 100)]


def test_snip__costs_more_than_sniper() -> None:
    """Objects at the corners of four windows: SNIP looks at all four, SNIPER at one chip around them."""
    boxes = [(x, y, x + 20, y + 20) for x in (75, 105) for y in (75, 105)]
    (snip,), (sniper,) = draw("snip", PYRAMID, record(*boxes)), draw("sniper", PYRAMID, record(*boxes))
    assert len(snip) == 4 and len(sniper) == 1
    assert {view.size for view in snip + sniper} == {(64, 64)}


def test_sniper__negatives_by_the_ratio_and_where_the_model_was_wrong() -> None:
    records = [record((10, 10, 30, 30))] * 6
    false_positives = {index: np.array([[350, 350, 360, 360]], np.float32) for index in range(6)}
    drawn = draw("sniper", PYRAMID, *records, ratio=0.5, false_positives=false_positives)
    negatives = [view for views in drawn for view in views if view.window[0] > 30 or view.window[1] > 30]
    assert len(negatives) == 3
    assert all(view.window[2] >= 360 and view.window[3] >= 360 for view in negatives)


@pytest.mark.parametrize("views", ["snip", "sniper"])
def test_no_objects_at_all__there_is_something_to_train_on(views: TrainingViews) -> None:
    drawn = draw(views, PYRAMID, record(), record())
    assert sum(map(len, drawn)) == 2


def batches(
    factors: tuple[float, ...] = (1.0,), views: TrainingViews = "grid", ratio: float = 0.5
) -> ViewSampler:
    rng = np.random.default_rng(1)
    records = Records(
        [
            record(*[(x, y, x + 15, y + 15) for x, y in rng.uniform(0, 380, (3, 2)).tolist()])
            for _ in range(30)
        ]
    )
    planner = ViewPlanner(views, GRID if views == "grid" else PYRAMID, SCALING, None, ratio, 0.4)
    return ViewSampler(records, planner, 4, lanes=1, pool=8, factors=factors, seed=3)


@pytest.mark.parametrize("views", ["grid", "sniper"])
def test_batches__each_epoch_is_drawn_anew_and_as_long(views: TrainingViews) -> None:
    sampler = batches(views=views)
    epochs = []
    for epoch in (0, 1, 0):
        sampler.epoch = epoch
        epochs.append(list(sampler))
    assert epochs[0] == epochs[2] != epochs[1]
    assert [len(epoch) for epoch in epochs] == [len(sampler)] * 3
    seeds = {seed for epoch in epochs[:2] for batch in epoch for _, _, seed in batch}
    assert len(seeds) == 2 * 4 * len(sampler)


def test_batches__multi_scale_draws_a_size_for_each_batch_the_largest_first() -> None:
    sampler = batches((1.5, 1.0, 0.5))
    sizes = []
    for batch in sampler:
        (size,) = {view.size for _, view, _ in batch if view is not None}
        sizes.append(size)
    assert sizes[0] == (96, 96)
    assert set(sizes) == {(96, 96), (64, 64), (32, 32)}
