from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from tilewise.arrays import Array
from tilewise.data.records import Record, Records
from tilewise.data.sizes_in_views import sizes_in_tiles, sizes_in_views
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.models.spec import DetectorSpec
from tilewise.registry import find_model
from tilewise.targets import Targets
from tilewise.tasks.detection.choose_tiling import choose_tiling
from tilewise.tiling.spec import WHOLE_IMAGE, Level, Tiling
from tilewise.training.job.view_plans import make_planner, shown_from, size_factors, with_size_factors
from tilewise.views.multi_scale import factors_for
from tilewise.views.view import Scaling

SCALING = Scaling(square=320)


def records(side: float, size: tuple[int, int] = (1600, 1200)) -> Records:
    boxes = np.array([[10, 10, 10 + side, 10 + side]] * 20, np.float32)
    labels, ignored = np.zeros(20, np.int64), np.zeros(20, np.bool_)
    return Records([Record("a.png", Path("a.png"), *size, Targets(boxes, labels, ignored))])


def hp(**given: object) -> Hyperparameters:
    return parse_hyperparameters({"model_name": "ssdlite_mobilenet_v3_large", "image_size": 320} | given)


def tiling(side: float = 46, **given: object) -> Tiling:
    return choose_tiling(hp(**given), records(side), SCALING)


def spec(
    tiling: Tiling, name: str = "ssdlite_mobilenet_v3_large", scaling: Scaling = SCALING
) -> DetectorSpec:
    return DetectorSpec(name, 1, scaling, None, 0.3, 0.5, 100, tiling)


def test_choose_tiling__as_asked_for() -> None:
    assert tiling(training_views="whole") == WHOLE_IMAGE == Tiling("whole")
    assert tiling(
        tile_grid_size="3x2",
        tile_overlap_ratio=0.1,
        tile_merge="nms",
        tile_predictions_nms_threshold=0.4,
    ) == Tiling("grid", grid=(3, 2), overlap=0.1, merge="nms", merge_threshold=0.4)
    # 32 px of 320 x 320 are 139 of 1600 x 1200; two thirds of that
    assert tiling(tile_size=500) == Tiling("fixed", tile_size=500, whole_from=92.4)
    assert tiling(training_views="whole", tile_grid_size="2x1") == Tiling("grid", grid=(2, 1))
    assert tiling(training_views="snip", pyramid_scales="1,3", pyramid_ranges="100-,0-120") == Tiling(
        "pyramid", levels=(Level(1, 100, None), Level(3, 0, 120))
    )


def test_choose_tiling__auto_takes_fixed_tiles_where_image_sizes_differ(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sizes = [(684, 547), (1000, 800), (2000, 1200), (4000, 2250)] * 5
    boxes = np.array([[10, 10, 50, 50], [100, 100, 140, 140]], np.float32)
    targets: Targets[Array] = Targets(boxes, np.zeros(2, np.int64), np.zeros(2, np.bool_))
    several = Records(Record("a", Path("a"), *size, targets) for size in sizes)
    caplog.set_level(logging.INFO)
    chosen = choose_tiling(hp(tile_grid_size="auto"), several, SCALING)
    # 320 px show 40 px as 32
    assert (chosen.kind, chosen.tile_size) == ("fixed", 400)
    assert "tile_grid_size=auto: tiles of 400 x 400 px: the images' sizes differ by" in caplog.text
    assert "views an image on average" in caplog.text
    alike = Records(Record("a", Path("a"), 1600 + 20 * number, 1200, targets) for number in range(20))
    assert choose_tiling(hp(tile_grid_size="auto"), alike, SCALING).kind == "grid"


def test_choose_tiling__scenes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene = records(20, size=(9000, 9000))
    chosen = choose_tiling(hp(tile_grid_size="auto"), scene, SCALING)
    assert chosen == Tiling("fixed", tile_size=400, whole_from=600)  # 20 px are 16 px of a view
    assert "in a grid of 25 views three quarters of the objects would measure 2.8 px or more" in caplog.text
    assert choose_tiling(hp(tile_grid_size="auto", smallest_object=20), scene, SCALING).tile_size == 640
    assert choose_tiling(hp(tile_grid_size="4x4"), scene, SCALING).grid == (4, 4)
    chips = choose_tiling(hp(training_views="sniper"), scene, SCALING)
    assert chips.levels[-1].zoom == pytest.approx(16 / (20 * 320 / 9000), abs=0.01)


def test_choose_tiling__from_the_data_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chosen = tiling(tile_grid_size="auto")
    assert (chosen.kind, chosen.grid) == ("grid", (5, 3))
    assert "tile_grid_size=auto: 5x3 tiles with an overlap of" in caplog.text
    assert tiling(training_views="grid", tile_overlap_ratio=0.25).overlap == 0.25
    assert tiling(side=300, tile_grid_size="auto").kind == "whole"
    assert tiling(training_views="fixed").tile_size == 460  # 320 px show 46 px as 32
    assert tiling(side=300, training_views="fixed").kind == "whole"
    assert tiling(side=300, training_views="snip").kind == "whole"
    assert "training_views=snip: whole images show the objects well enough" in caplog.text
    assert [level.zoom for level in tiling(training_views="sniper").levels] == [3.01]
    assert "zoom 3" in caplog.text


def test_choose_tiling__the_whole_image_is_for_what_tiles_do_not_show_better() -> None:
    def from_size(sides: list[tuple[int, int]], **given: object) -> float:
        boxes = np.array([[10, 10, 10 + width, 10 + height] for width, height in sides], np.float32)
        labels, ignored = np.zeros(len(sides), np.int64), np.zeros(len(sides), np.bool_)
        some = Records([Record("a.png", Path("a.png"), 1600, 1200, Targets(boxes, labels, ignored))])
        return choose_tiling(hp(tile_grid_size="4x3", **given), some, SCALING).whole_from

    assert from_size([(46, 46)]) == 92.4
    assert from_size([(46, 46)], tile_merge="nms") == 0  # Azure AutoML's way
    assert from_size([(46, 46)], training_views="whole") == 0  # then it has seen all sizes
    # Neighbouring tiles share 0.25 * 1600 / 3.25 = 123 px along x and 0.25 * 1200 / 2.5 = 120 along y:
    # what is longer may be whole in the whole image alone.
    assert from_size([(46, 46), (49, 119)]) == 92.4
    assert from_size([(46, 46), (121, 49)]) == 92.4
    assert from_size([(46, 46), (49, 121)]) == 77.0
    assert from_size([(46, 46), (10, 90)], tile_overlap_ratio=0.1) == 30.0
    # One in a hundred does not count.
    assert from_size([(46, 46)] * 99 + [(49, 121)]) == 92.4
    assert from_size([(46, 46)] * 98 + [(49, 121), (36, 121)]) == 77.0


def test_make_planner__only_where_there_is_something_to_plan() -> None:
    assert make_planner(hp(), spec(WHOLE_IMAGE)) is None
    assert make_planner(hp(tile_grid_size="auto"), spec(WHOLE_IMAGE)) is None  # none was needed
    assert make_planner(hp(training_views="fixed"), spec(WHOLE_IMAGE)) is None
    assert make_planner(hp(training_views="whole", tile_size=9), spec(Tiling("fixed", tile_size=9))) is None
    planner = make_planner(
        hp(tile_grid_size="3x2", negative_views_ratio=2), spec(tiling(tile_grid_size="3x2"))
    )
    assert planner is not None
    assert (planner.views, planner.negative_ratio, planner.min_visibility) == ("grid", 2, 0.4)
    varied = make_planner(hp(multi_scale=1), spec(WHOLE_IMAGE))
    assert varied is not None and varied.views == "whole"


def test_size_factors__multiples_of_32_that_the_model_can_take() -> None:
    assert size_factors(hp(), spec(WHOLE_IMAGE)) == [1.0]
    factors = size_factors(hp(multi_scale=1), spec(WHOLE_IMAGE))
    assert [round(320 * factor) for factor in factors] == list(range(480, 159, -32))
    vgg = size_factors(hp(multi_scale=1), spec(WHOLE_IMAGE, "ssd_vgg16", Scaling(square=512)))
    assert [round(512 * factor) for factor in vgg] == list(range(768, 479, -32))
    sides = Scaling(min_size=600, max_size=1000)
    rcnn = size_factors(hp(multi_scale=1), spec(WHOLE_IMAGE, "fasterrcnn_resnet50_fpn", sides))
    assert (round(600 * rcnn[0]), round(600 * rcnn[-1])) == (896, 320)


def test_size_factors__any_side_where_views_are_padded() -> None:
    sides = Scaling(min_size=600, max_size=1000)
    factors = size_factors(hp(multi_scale="0.5,1,1.5"), spec(WHOLE_IMAGE, "fasterrcnn_resnet50_fpn", sides))
    assert factors == [1.5, 1, 0.5]


def test_size_factors__by_the_objects_as_tiles_show_them() -> None:
    auto, some = hp(multi_scale="auto", tile_size=400), records(40, (1600, 1600))
    smallest = find_model(auto.model_name).smallest_object
    tiles = with_size_factors(auto, spec(Tiling("fixed", tile_size=400, overlap=0.2)), some)
    whole = with_size_factors(auto, spec(WHOLE_IMAGE), some)
    assert tiles.multi_scale == factors_for(np.array([8.0] * 20 + [32.0] * 20), smallest)
    assert whole.multi_scale == factors_for(np.array([8.0]), smallest)
    finer = with_size_factors(auto.model_copy(update={"smallest_object": 8.0}), spec(WHOLE_IMAGE), some)
    assert finer.multi_scale == factors_for(np.array([8.0]), 8)


def test_object_sizes__as_the_views_show_them() -> None:
    scaling = Scaling(square=400)
    some = records(40, (800, 800))
    assert sizes_in_views(some, scaling) == pytest.approx([20] * 20)
    grid = sizes_in_views(some, scaling, Tiling("grid", grid=(2, 2), overlap=0.0))
    assert sorted(grid) == pytest.approx([20] * 20 + [40] * 20)
    tiles_alone = Tiling("grid", grid=(2, 2), overlap=0.0, whole_from=41)
    assert sizes_in_views(some, scaling, tiles_alone) == pytest.approx([40] * 20)
    pyramid = Tiling("pyramid", levels=(Level(1, 60), Level(2, 30, 90), Level(4, 0, 35)))
    assert sizes_in_views(some, scaling, pyramid) == pytest.approx([40] * 20)


@pytest.mark.parametrize(("side", "counts"), [(40, 32), (20, 20)])
def test_shown_from__as_tiles_show_objects_and_no_more_than_the_model_resolves(
    side: float, counts: float
) -> None:
    scaling, some = Scaling(square=400), records(side, (800, 800))
    tiles = Tiling("grid", grid=(2, 2), overlap=0.0)
    assert sizes_in_tiles(some, scaling, tiles) == pytest.approx([side] * 20)
    job = hp(model_name="yolox_tiny", image_size=400)
    assert shown_from(job, spec(tiles, "yolox_tiny", scaling), some) == pytest.approx(counts)
