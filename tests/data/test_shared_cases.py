"""Inputs that users brought and that went wrong, each with what is right."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from tilewise.errors import UserError

ROOT = Path(__file__).resolve().parents[2]

# case -> classes, images, boxes, and words of the log
READ = {
    "roboflow_root_same_name": (("car",), 8, 16, "the category 'car' (id 0) is left out"),
    "roboflow_root_other_name": (("car",), 8, 16, "stand for a group of others: vehicles"),
    "coco_boxes_as_fractions": (("car",), 8, 16, "they are read as fractions of their images"),
    "coco_polygons_without_bbox": (("car",), 8, 16, ""),
    "coco_one_bbox_null": (("car",), 8, 15, "002.jpg: annotation 6 has the bbox null, not 4 numbers"),
    "coco_windows_paths": (("car",), 8, 16, ""),
    "coco_json_among_the_images": (("car",), 8, 16, "holds COCO"),
    "coco_ids_as_text": (("car",), 8, 16, ""),
    "coco_doubled_annotations": (("car",), 8, 16, "(12, 20) to (52, 50) repeats another one of its image"),
    "coco_names_differ_by_space_and_case": (
        ("car", "Car", "car "),
        8,
        16,
        "the classes 'car', 'Car', 'car '",
    ),
    "coco_images_jfif": (("car",), 8, 16, ""),
    "coco_images_jp2": (("car",), 8, 16, ""),
    "coco_images_ppm": (("car",), 8, 16, ""),
    "azure_polygon_flat": (("car",), 8, 8, ""),
    "azure_polygon_pairs": (("car",), 8, 8, ""),
    "azure_sas_urls": (("car",), 8, 8, "8 of 8 boxes are at the very same place"),
    "manifest_adjusted_one_failed": (("car",), 39, 78, "the label attribute is cars-adjusted"),
    "manifest_keys_without_suffix": (("car",), 8, 16, ""),
    "manifest_as_json_array": (("car",), 8, 16, "the JSON objects in it are read one after the other"),
}
REFUSED = {
    "azure_polygon_odd_segments": "its polygon has a segment of 7 numbers, not x and y of 3 points or more",
    "azure_polygon_rle": 'its polygon is {"size": [120, 160], "counts": "abc"} (object), not a list',
    "yolo_decimal_comma": 'labels/000.txt line 1: it has "0,5" (text), not a number: write decimals',
    "recordio_x_y_width_height": "32 of 32 boxes cannot be used, more than 5% (are they x, y, width, height",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = ROOT / "../shared/cases/make_cases.py"
    if not script.is_file():
        pytest.skip("the shared cases are not beside this repository")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    return folder


def read(folder: Path) -> DataSet:
    return read_data_set({"train": ChannelFolder(folder)}, None, validates=False, seed=0)


@pytest.mark.parametrize("case", READ)
def test_cases__read_right(cases: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    classes, images, boxes, said = READ[case]
    with caplog.at_level(logging.INFO, "tilewise"):
        data = read(cases / case)
    assert data.classes == classes and len(data.train.sample) == images
    targets = data.train.sample.targets
    assert (
        len(targets) == boxes and targets.boxes.min() >= 12 - 0.01
    )  # no box of the cases is nearer a border
    assert said in "\n".join(caplog.messages)


@pytest.mark.parametrize("case", REFUSED)
def test_cases__refused_in_words(cases: Path, case: str) -> None:
    with pytest.raises(UserError) as error:
        read(cases / case)
    assert REFUSED[case] in str(error.value)
