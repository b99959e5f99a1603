from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_training import plain_hp
from tilewise.data.channel import DataSet, Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.data.sizes_in_views import sizes_in_views
from tilewise.targets import Targets
from tilewise.tasks.detection.fit_spec import fit_spec
from tilewise.views.view import Scaling


def crowded(objects: int) -> DataSet:
    boxes = np.tile(np.array([[0, 0, 60, 60]], np.float32), (objects, 1))
    record = Record(
        "a", Path("a"), 200, 100, Targets(boxes, np.zeros(objects, np.int64), np.zeros(objects, np.bool_))
    )
    return DataSet(("dot",), Split(Records([record]), ChannelIssues("train", 1)), None)


@pytest.mark.parametrize(
    ("objects", "given", "cap"),
    [
        (10, {}, 100),
        (50, {}, 100),
        (51, {}, 102),
        (300, {}, 600),
        (300, {"box_detections_per_image": 90}, 90),
    ],
)
def test_spec__finds_twice_the_objects_of_the_fullest_image(
    objects: int, given: dict[str, object], cap: int
) -> None:
    spec = fit_spec(plain_hp(image_size=320, **given), crowded(objects))
    assert spec.detections_per_view == cap


@pytest.mark.parametrize(
    ("objects", "given", "per_view", "per_image"),
    [
        (10, {}, 100, 100),
        (300, {}, 600, 600),
        (10, {"box_detections_per_image": 5}, 5, 5),
        (10, {"box_detections_per_image": 5, "tile_grid_size": "3x2"}, 100, 5),
        (10, {"box_detections_per_img": 150, "tile_size": 50}, 150, 150),
        (10, {"model_name": "yolov5", "box_detections_per_image": 5}, 300, None),
        (10, {"model_name": "yolov5", "tile_grid_size": "3x2"}, 300, None),
        (400, {"model_name": "yolov5"}, 800, None),
        (10, {"model_name": "yolox_m", "box_detections_per_image": 5}, 5, 5),
    ],
)
def test_spec__limits_what_is_found_in_an_image(
    objects: int,
    given: dict[str, object],
    per_view: int,
    per_image: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = fit_spec(plain_hp(image_size=320, **given), crowded(objects))
    assert (spec.detections_per_view, spec.detections_per_image) == (per_view, per_image)
    no_effect = "yolov5" in str(given) and "box_detections_per_image" in given
    assert ("has no effect on model_name=yolov5" in caplog.text) == no_effect


@pytest.mark.parametrize(
    ("given", "per_view", "per_image"),
    [
        # 16 px from one to the next are 400 in a view of 320 px
        ({"image_size": 320, "tile_size": 50}, 800, 100_000),
        ({"image_size": 320}, 800, 100_000),
        ({"image_size": 320, "tile_size": 50, "box_detections_per_image": 5000}, 5000, 5000),
        ({"model_name": "yolov5", "image_size": 320, "tile_size": 50}, 800, None),
        (
            {"model_name": "fasterrcnn_resnet18_fpn", "image_size": None, "min_size": 160, "max_size": 320},
            400,
            100_000,
        ),
    ],
)
def test_spec__keeps_no_more_of_a_view_of_a_crowded_scene_than_it_can_show(
    given: dict[str, object], per_view: int, per_image: int | None
) -> None:
    spec = fit_spec(plain_hp(**given), crowded(50_000))
    assert (spec.detections_per_view, spec.detections_per_image) == (per_view, per_image)


def test_spec__has_anchors_for_the_objects_as_the_view_shows_them() -> None:
    # 60 pixels of 200 x 100 are 28.8 x 57.6 in a square of 96: 0.42 of its side
    assert fit_spec(plain_hp(), crowded(1)).anchor_sizes is None
    # of 2000 x 1000 they are a tenth of that
    data = crowded(1)
    data.train.sample.sizes *= 10
    sizes = fit_spec(plain_hp(), data).anchor_sizes
    assert sizes is not None
    assert sizes[0] == pytest.approx(0.3 * 2**0.5 / 10, abs=1e-4)


def test_object_sizes__are_of_the_views_pixels(data: DataSet) -> None:
    assert sizes_in_views(crowded(2).train.sample, Scaling(square=100)) == pytest.approx([60 * 0.5**0.5] * 2)
    scaling = Scaling(min_size=50, max_size=400)
    assert sizes_in_views(crowded(2).train.sample, scaling) == pytest.approx([30, 30])
    assert len(sizes_in_views(data.train.sample, scaling)) == 12
