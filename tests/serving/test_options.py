from __future__ import annotations

from typing import Any

import pytest
from tilewise.errors import UserError
from tilewise.serving.options import Options, check_names, read_attributes, read_options
from tilewise.tasks.answers import MaskPictures
from tilewise.tiling.spec import TileOptions

FORMS = ("coco", "png")


def test_read_options__all() -> None:
    texts = {
        "threshold": "0.5",
        "max_detections": "10",
        "classes": "ant, 1",
        "tile_grid_size": "3x2",
        "overlap": "0.1",
        "tta": "mirror",
        "scores": "calibrated",
        "format": "coco",
    }
    options = read_options(texts, FORMS)
    tiles = TileOptions(grid=(3, 2), overlap=0.1, mirror=True)
    assert options == Options(0.5, 10, ("ant", "1"), tiles, "coco", calibrated=True)
    assert read_options({"tta": "none"}, FORMS).tiles == TileOptions(mirror=False)
    assert options.labels(("ant", "bee")) == frozenset({0, 1})
    assert read_options({"tile_size": "none"}, FORMS).tiles == TileOptions(tiled=False)
    assert read_options({}, FORMS) == Options()


def test_read_options__as_json_has_them() -> None:
    options = read_options({"threshold": 0.5, "max_detections": 3, "classes": [0, "bee"]}, FORMS)
    assert options == Options(0.5, 3, ("0", "bee"))
    assert read_options({"classes": ["ant, red"]}, FORMS).classes == ("ant, red",)


@pytest.mark.parametrize(
    ("texts", "pictures"),
    [
        ({}, None),
        ({"export_as_image": True}, MaskPictures(wanted=True)),
        ({"export_as_image": "0", "image_type": "png"}, MaskPictures(wanted=False, image_type="png")),
        ({"image_type": "PNG"}, MaskPictures(wanted=True, image_type="png")),
    ],
)
def test_read_options__masks_as_pictures(texts: dict[str, Any], pictures: MaskPictures | None) -> None:
    assert read_options(texts, FORMS).pictures == pictures


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"threshold": "high"}, "threshold=high: it must be a number from 0 to 1"),
        ({"threshold": "1.5"}, "from 0 to 1"),
        ({"threshold": "0.5,0.9"}, "threshold=0.5,0.9: it must be a number from 0 to 1"),
        ({"threshold": "nan"}, "from 0 to 1"),
        ({"max_detections": "0"}, "from 1 to 100000"),
        ({"max_detections": "2.5"}, "whole number"),
        ({"tile_size": "8"}, "at least 32"),
        ({"tile_size": "x"}, "tile_size='x'"),
        ({"tile_grid_size": "100x100"}, "at most 1024"),
        ({"tile_grid_size": "3x2", "tile_size": "640"}, "exclude each other"),
        ({"overlap": "2"}, "overlap=2: must be at least 0"),
        ({"tta": "flip"}, "tta='flip': must be one of none, mirror"),
        ({"scores": "raw"}, "scores=raw: possible are model, calibrated"),
        ({"format": "xml"}, "format=xml: possible are coco, png"),
        ({"export_as_image": "yes"}, "export_as_image=yes: it must be 0, 1, true or false"),
        ({"image_type": "gif"}, "image_type=gif: possible are jpg, png, bmp"),
    ],
)
def test_read_options__wrong_values(texts: dict[str, str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_options(texts, FORMS)


@pytest.mark.parametrize("name", ["wasp", "2", "-1"])
def test_labels__a_class_that_there_is_not(name: str) -> None:
    with pytest.raises(UserError, match="the model's classes are ant, bee"):
        Options(classes=(name,)).labels(("ant", "bee"))


def test_labels__a_name_with_a_comma_goes_by_its_number() -> None:
    names, options = ("ant, red", "bee"), read_options({"classes": "ant, red"}, FORMS)
    with pytest.raises(UserError, match="classes are ant, red, bee; give those with a comma by number"):
        options.labels(names)
    assert read_options({"classes": "0"}, FORMS).labels(names) == frozenset({0})


def test_labels__a_number_as_a_name() -> None:
    assert Options(classes=("1",)).labels(("1", "0")) == frozenset({0})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", {}),
        ("c000b4f9-df62-4c85-a0bf-7c525f9104a4", {}),
        ("trace=1;threshold=0.5; classes = ant,bee", {"threshold": "0.5", "classes": "ant,bee"}),
        ("threshold=0.5&tile_size=640", {"threshold": "0.5", "tile_size": "640"}),
        ("classes=ant;classes=bee", {"classes": "ant,bee"}),
    ],
)
def test_read_attributes(header: str, expected: dict[str, str]) -> None:
    assert read_attributes(header) == expected


@pytest.mark.parametrize("header", ["treshold=0.5", "THRESHOLD=0.5", "Max-Detections=3"])
def test_read_attributes__misspelt(header: str) -> None:
    with pytest.raises(UserError, match=r"(threshold|max_detections) is meant"):
        read_attributes(header)


@pytest.mark.parametrize("header", ["threshold:0.5", "trace=1; threshold", "threshold 0.5"])
def test_read_attributes__without_a_value(header: str) -> None:
    with pytest.raises(UserError, match="threshold has no value: write threshold="):
        read_attributes(header)


def test_check_names__the_possible_ones() -> None:
    with pytest.raises(UserError, match="the query has 'treshold': possible are threshold, max_detections"):
        check_names(["treshold"], "the query")
