from __future__ import annotations

import pytest
from raw_hyperparameters import problems
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters


@pytest.mark.parametrize("text", ["3x2", "3X2", "(3, 2)", "3, 2", "[3x2]", " 3x2 "])
def test_views__grid_in_all_spellings(text: str) -> None:
    parsed = parse_hyperparameters({"tile_grid_size": text})
    assert parsed.tile_grid_size == (3, 2)
    assert parsed.training_views == "grid"


@pytest.mark.parametrize("text", ["1x1", "3", "3x", "0x2", "3x2x1", "axb", "3.5x2"])
def test_views__grid_of_a_wrong_form(text: str) -> None:
    assert problems({"tile_grid_size": text}).endswith(
        ": must be columns x rows of more than one tile, such as 3x2, or auto"
    )


@pytest.mark.parametrize(
    ("raw", "views"),
    [
        ({}, "whole"),
        ({"tile_grid_size": "AUTO"}, "grid"),
        ({"tile_size": "500"}, "fixed"),
        ({"training_views": "grid"}, "grid"),
        ({"training_views": "fixed"}, "fixed"),
        ({"training_views": "whole", "tile_grid_size": "3x2", "tile_merge": "nms"}, "whole"),
        ({"training_views": "whole", "tile_size": "500"}, "whole"),
        (
            {"tile_overlap_ratio": "0.1", "tile_predictions_nms_threshold": "0.5"},
            "whole",
        ),  # as Azure's jobs may
        ({"training_views": "sniper", "chip_size": "256"}, "sniper"),
        ({"training_views": "snip", "multi_scale": "0", "negative_views_ratio": "0"}, "snip"),
    ],
)
def test_views__what_training_looks_at(raw: dict[str, str], views: str) -> None:
    parsed = parse_hyperparameters(raw)
    assert parsed.training_views == views
    assert Hyperparameters.model_validate(parsed.model_dump(mode="json")) == parsed


def test_views__pyramid() -> None:
    raw = {"training_views": "snip", "pyramid_scales": "1, 1.667,3", "pyramid_ranges": "120-, 32-150, 0-80"}
    parsed = parse_hyperparameters(raw)
    assert parsed.pyramid_scales == (1, 1.667, 3)
    assert parsed.pyramid_ranges == ((120, None), (32, 150), (0, 80))
    assert Hyperparameters.model_validate(parsed.model_dump(mode="json")) == parsed


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"tile_grid_size": "3x2", "tile_size": "500"},
            "tile_grid_size='3x2' and tile_size=500 exclude each other: give one of them",
        ),
        (
            {"training_views": "fixed", "tile_grid_size": "3x2"},
            "tile_grid_size='3x2' does not go with training_views=fixed, only with grid or whole",
        ),
        (
            {"training_views": "grid", "tile_size": "500"},
            "tile_size=500 does not go with training_views=grid, only with fixed or whole",
        ),
        (
            {"chip_size": "500"},
            "chip_size=500 does not go with training_views (here whole), only with sniper",
        ),
        (
            {"tile_grid_size": "3x2", "pyramid_scales": "1,2"},
            "pyramid_scales='1,2' does not go with training_views (here grid), only with snip or sniper",
        ),
        (
            {"training_views": "sniper", "multi_scale": "1"},
            "multi_scale=1 does not go with training_views=sniper, only with whole or grid or fixed",
        ),
        (
            {"training_views": "snip", "negative_views": "false_alarms"},
            "negative_views='false_alarms' does not go with training_views=snip, only with sniper",
        ),
        (
            {"negative_views_ratio": "1"},
            "negative_views_ratio=1 does not go with training_views (here whole), only with grid or fixed"
            " or snip or sniper",
        ),
        (
            {"tile_grid_size": "3x2", "smallest_object": "20"},
            "smallest_object=20 has no effect: only tiles that are chosen from the data follow it, as with"
            " tile_grid_size=auto",
        ),
        (
            {"smallest_object": "20"},
            "smallest_object=20 has no effect: only tiles that are chosen from the data follow it, as with"
            " tile_grid_size=auto",
        ),
        (
            {"tile_merge": "wbf"},
            "tile_merge='wbf': there are no tiles; give tile_grid_size or tile_size, or leave it out",
        ),
        (
            {"training_views": "snip", "pyramid_ranges": "0-80"},
            "pyramid_ranges='0-80': 1 ranges for no scales; give pyramid_scales with as many",
        ),
        (
            {"training_views": "snip", "pyramid_scales": "1,2", "pyramid_ranges": "0-80"},
            "pyramid_ranges='0-80': 1 ranges for 2 scales; give pyramid_scales with as many",
        ),
        (
            {"model_name": "ssd_vgg16", "training_views": "sniper", "chip_size": "300"},
            "chip_size=300: ssd_vgg16 takes image_size, the side of its square input, instead",
        ),
    ],
)
def test_views__what_does_not_go_together(raw: dict[str, str], message: str) -> None:
    assert problems(raw) == message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyramid_scales", "2,1"),
        ("pyramid_scales", "0.1,1"),
        ("pyramid_scales", "1,1"),
        ("pyramid_ranges", "80-0"),
        ("pyramid_ranges", "80"),
        ("pyramid_ranges", "a-b"),
        ("pyramid_ranges", "-5-3"),
        ("negative_views_ratio", "-1"),
        ("min_box_visibility", "1.1"),
        ("tile_merge", "best"),
    ],
)
def test_views__wrong_values(name: str, text: str) -> None:
    assert f"{name}={text!r}: must be " in problems({name: text}) or f"{name}={text}: must be " in problems(
        {name: text}
    )
