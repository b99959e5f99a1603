from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tilewise.arrays import Array
from tilewise.data.records import Record, Records
from tilewise.targets import Targets
from tilewise.tiling.spec import WHOLE_IMAGE
from tilewise.training.dataloading.repeats import drawn_counts, repeat_factors
from tilewise.training.dataloading.samplers import ImageSampler
from tilewise.training.dataloading.view_order import index_of
from tilewise.training.dataloading.view_sampler import ViewPlanner
from tilewise.views.view import Scaling


def records(*labels: list[int], ignored: bool = False) -> Records:
    made = []
    for number, each in enumerate(labels):
        count = len(each)
        boxes = np.tile(np.asarray([[1, 1, 9, 9]], np.float32), (count, 1))
        targets: Targets[Array] = Targets(boxes, np.asarray(each, np.int64), np.full(count, ignored))
        made.append(Record(str(number), Path(str(number)), 40, 30, targets))
    return Records(made)


def test_factors__as_lvis_defines_them() -> None:
    common, rare = [0], [0, 1, 1]
    factors = repeat_factors(records(*[common] * 97, *[rare] * 2, []), threshold=0.08)
    assert factors[:97].tolist() == [1] * 97 and factors[99] == 1
    np.testing.assert_allclose(factors[97:99], np.sqrt(0.08 / 0.02))


def test_factors__by_the_median_share() -> None:
    factors = repeat_factors(records(*[[0]] * 90, *[[1]] * 10))
    np.testing.assert_allclose(factors, [1] * 90 + [np.sqrt(0.5 / 0.1)] * 10)
    assert (repeat_factors(records(*[[0, 1]] * 10)) == 1).all()


def test_factors__ignored_objects_do_not_count() -> None:
    assert repeat_factors(records([0], [1], ignored=True), 1.0).tolist() == [1, 1]


def test_drawn_counts__on_average_the_factors() -> None:
    rng = np.random.default_rng(0)
    factors = np.asarray([1, 1.25, 2.5])
    drawn = np.stack([drawn_counts(factors, rng) for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(axis=0), factors, atol=0.03)
    assert set(drawn[:, 2].tolist()) == {2, 3} and (drawn[:, 0] == 1).all()


def test_image_sampler__shows_rare_images_more_often() -> None:
    sampler = ImageSampler(4, 2, 0, repeats=np.asarray([1, 1, 1, 5.0]))
    seen = [index_of(image) for batch in sampler for image, _, _ in batch]
    assert len(sampler) == 4 and np.bincount(seen).tolist() == [1, 1, 1, 5]
    seeds = [seed for batch in sampler for _, _, seed in batch]
    assert len(set(seeds)) == 8


@pytest.mark.parametrize("repeats", [None, np.asarray([1, 3.0])])
def test_planner__repeats_views(repeats: np.ndarray | None) -> None:
    planner = ViewPlanner("whole", WHOLE_IMAGE, Scaling(square=64), repeats=repeats)
    drawn = planner.draw(records([0], [1]), np.random.default_rng(0))
    assert [len(views) for views in drawn] == ([1, 1] if repeats is None else [1, 3])
