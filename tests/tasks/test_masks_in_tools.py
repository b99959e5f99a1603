"""Masks in the forms of labelling tools, read by the tools' own libraries, where these are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from PIL import Image
from tilewise.instances import Instances
from tilewise.masks import MASKS, Masks, RunLengths
from tilewise.rasters import Bitmap, rasterise, runs_of
from tilewise.tasks.answers import Answered
from tilewise.tasks.segmentation.answers import SegmentationAnswers
from tilewise.tasks.segmentation.prediction import SegmentedPrediction

# pycocotools 2.0.11 hands NumPy 2 an array without its keyword copy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
WIDTH, HEIGHT = 90, 70
CLASSES = ("ring", "part")
STUDIO = """<View><Image name="image" value="$image"/>
<PolygonLabels name="label" toName="image"><Label value="ring"/><Label value="part"/></PolygonLabels>
</View>"""


def bitmaps() -> list[Bitmap]:
    """A ring, and an object of two parts at the image's border."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = (columns - 30) ** 2 + (rows - 30) ** 2
    ring = (distance < 20**2) & (distance > 8**2)
    parts = (rows > 10) & (columns > 70) & (abs(rows - 40) > 4)
    return [each.astype(np.uint8) for each in (ring, parts)]


@pytest.fixture
def answered() -> Answered:
    masks = Masks.of([RunLengths(WIDTH, HEIGHT, runs_of(each)) for each in bitmaps()])
    fields = {MASKS: masks.crop((0, 0, WIDTH, HEIGHT), (WIDTH, HEIGHT))}
    scores = np.array([0.9, 0.8], np.float32)
    found = Instances(masks.boxes, scores, np.array([0, 1]), fields)
    return Answered(SegmentedPrediction(WIDTH, HEIGHT, found, most_points=400), CLASSES, "a.png")


def rendered(form: str, answered: Answered) -> str:
    return SegmentationAnswers.forms[form].render([answered])


def test_cvat__its_sdk_decodes_the_masks(answered: Answered) -> None:
    tool = pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk is not installed")
    for mask, expected in zip(fromstring(rendered("cvat", answered)).iter("mask"), bitmaps(), strict=True):
        place = {name: int(mask.attrib[name]) for name in ("left", "top", "width", "height")}
        runs = [float(each) for each in mask.attrib["rle"].split(",")]
        low, high = (place["left"], place["top"]), (place["width"] - 1, place["height"] - 1)
        ends = [low[0] + high[0], low[1] + high[1]]  # the last column and row
        decoded = tool.decode_mask([*runs, *low, *ends], image_width=WIDTH, image_height=HEIGHT)
        assert np.array_equal(decoded, expected > 0)


def test_cvat__datumaro_reads_the_masks(answered: Answered, tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    (tmp_path / "annotations.xml").write_text(rendered("cvat", answered))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    (item,) = datumaro.Dataset.import_from(str(tmp_path / "annotations.xml"), "cvat")
    for one, expected in zip(item.annotations, bitmaps(), strict=True):
        assert one.type.name == "mask" and np.array_equal(one.image, expected)
    assert [one.label for one in item.annotations] == [0, 1]


def test_label_studio__its_sdk_takes_and_converts_the_polygons(answered: Answered, tmp_path: Path) -> None:
    reason = "label-studio-sdk is not installed"
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason=reason)
    converter = pytest.importorskip("label_studio_sdk.converter", reason=reason)
    (task,) = json.loads(rendered("label-studio", answered))
    (prediction,) = task["predictions"]
    assert interface.LabelInterface(STUDIO).validate_prediction(prediction, return_errors=True) == []
    times = dict.fromkeys(("created_at", "updated_at"), "2024-01-01T00:00:00Z")
    labelled = {"id": 1, "completed_by": 1, "was_cancelled": False, "result": prediction["result"], **times}
    exported = {"id": 1, "data": task["data"], "annotations": [labelled]}
    (tmp_path / "tasks.json").write_text(json.dumps([exported]))
    tool: Any = converter.Converter(STUDIO, str(tmp_path), download_resources=False)
    tool.convert(str(tmp_path / "tasks.json"), str(tmp_path / "coco"), "COCO", is_dir=False)
    content = json.loads((tmp_path / "coco" / "result.json").read_text())
    for row, expected in zip(content["annotations"], bitmaps(), strict=True):
        (ring,) = row["segmentation"]
        again = rasterise([np.array(ring).reshape(-1, 2)], WIDTH, HEIGHT)
        # two parts are joined by a line there and back
        assert (again != expected).mean() < 0.002
