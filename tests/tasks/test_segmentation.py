from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewise.arrays import Array
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.masks import MASKS, Masks, RunLengths
from tilewise.models.spec import SegmenterSpec
from tilewise.rasters import runs_of
from tilewise.targets import Targets
from tilewise.tasks.registry import make_task
from tilewise.views.view import Scaling

SPEC = SegmenterSpec("maskyolox_nano", 2, Scaling(square=128), None, 0.01, 0.5, 20)


def disc(diameter: int) -> Records:
    """An image with a disc: its mask has 0.785 of its box's area."""
    y, x = np.mgrid[:diameter, :diameter] + 0.5
    bitmap = (np.hypot(x - diameter / 2, y - diameter / 2) < diameter / 2).astype(np.uint8)
    masks = Masks.of([RunLengths(diameter, diameter, runs_of(bitmap)), None]).crop(
        (0, 0, 200, 200), (200, 200)
    )
    boxes = np.array([[0, 0, diameter, diameter], [0, 0, 190, 190]], np.float32)
    targets: Targets[Array] = Targets(boxes, np.zeros(2, np.int64), np.zeros(2, np.bool_), {MASKS: masks})
    return Records([Record("a", Path("a"), 200, 200, targets)])


@pytest.mark.parametrize(
    ("figure", "diameter", "defined"),
    [("AP_small", 34, True), ("AP_small", 37, False), ("AP_large", 100, False), ("AP_large", 110, True)],
)
def test_check_validation__sizes_are_those_of_masks(figure: str, diameter: int, defined: bool) -> None:
    """An object without a mask has no size: no figure of masks counts it."""
    task = make_task(parse_hyperparameters({"task": "instance_segmentation", "primary_metric": figure}))
    if defined:
        task.check_validation(disc(diameter))
    else:
        with pytest.raises(UserError, match=f"primary_metric={figure}: the validation images have no object"):
            task.check_validation(disc(diameter))


@pytest.mark.parametrize(
    ("name", "value", "must_be"),
    [
        ("mask_pixel_score_threshold", 1.5, "a number from 0 to 1"),
        ("mask_pixel_score_threshold", "0.5", "a number from 0 to 1"),
        ("max_number_of_polygon_points", "20", "a whole number from 3 on"),
        ("max_number_of_polygon_points", 2, "a whole number from 3 on"),
        ("export_as_image", "yes", "true or false"),
        ("image_type", "tiff", "one of jpg, png, bmp"),
    ],
)
def test_spec__an_edited_model_json_is_refused_where_it_is_wrong(name: str, value: Any, must_be: str) -> None:
    content = SPEC.to_json()
    assert SegmenterSpec.from_json({**content, "image_type": "PNG"}).image_type == "png"
    with pytest.raises(UserError, match=f"model.json: {name} is {value!r}, and must be {must_be}"):
        SegmenterSpec.from_json({**content, name: value})
