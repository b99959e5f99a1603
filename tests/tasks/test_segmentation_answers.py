from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import fromstring

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_masks
from tilewise.instances import Instances
from tilewise.masks import MASKS, Masks, RunLengths
from tilewise.rasters import Bitmap, rasterise, runs_of
from tilewise.tasks.answers import Answered, MaskPictures
from tilewise.tasks.segmentation.answers import SegmentationAnswers
from tilewise.tasks.segmentation.prediction import SegmentedPrediction, with_pictures

# pycocotools 2.0.11 hands NumPy 2 an array without its keyword copy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ANSWERS = SegmentationAnswers()
WIDTH, HEIGHT = 200, 100


def shapes() -> list[Bitmap]:
    """A disc with a hole, two parts, and an object of one pixel."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = (columns - 50) ** 2 + (rows - 50) ** 2
    ring = (distance < 30**2) & (distance > 10**2)
    parts = (rows > 20) & (rows < 40) & (columns > 100) & (columns < 150) & (abs(columns - 125) > 5)
    pixel = (rows == 70) & (columns == 170)
    return [each.astype(np.uint8) for each in (ring, parts, pixel)]


def answered(most_points: int = 400, image_type: str = "") -> Answered:
    masks = Masks.of([RunLengths(WIDTH, HEIGHT, runs_of(each)) for each in shapes()])
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    fields = {MASKS: masks.crop((0, 0, WIDTH, HEIGHT), (WIDTH, HEIGHT))}
    instances = Instances(masks.boxes, scores, np.array([0, 1, 1]), fields)
    prediction = SegmentedPrediction(WIDTH, HEIGHT, instances, most_points)
    if image_type:
        prediction = with_pictures(prediction, MaskPictures(wanted=True, image_type=image_type))
    return Answered(prediction, ("ring", "part"), "a.png")


def drawn(polygon: list[list[float]]) -> Bitmap:
    rings = [np.array(ring).reshape(-1, 2) * (WIDTH, HEIGHT) for ring in polygon]
    return rasterise(rings, WIDTH, HEIGHT, even_odd=True)


def test_rows__stay_six_numbers_beside_polygons() -> None:
    content = ANSWERS.content(answered(), as_annotation=False)
    assert [len(row) for row in content["prediction"]] == [6, 6, 6]
    for polygon, shape in zip(content["polygons"], shapes(), strict=True):
        assert np.array_equal(drawn(polygon), shape)
    assert len(content["polygons"][2][0]) == 8  # one pixel is a square


def test_annotations__have_run_lengths() -> None:
    content = ANSWERS.content(answered(), as_annotation=True)
    json.dumps(content)
    for row, shape in zip(content["annotations"], shapes(), strict=True):
        assert np.array_equal(coco_masks.decode(row["segmentation"]), shape)


@pytest.mark.parametrize("most", [12, 40, 100])
def test_polygons__have_at_most_so_many_points(most: int) -> None:
    for polygon, shape in zip(
        ANSWERS.content(answered(most), as_annotation=False)["polygons"], shapes(), strict=True
    ):
        assert sum(map(len, polygon)) <= 2 * most
        again = drawn(polygon)
        assert (again & shape).sum() / (again | shape).sum() > (0.9 if most >= 40 else 0.4)


def form(name: str, **options: Any) -> str:
    return ANSWERS.forms[name].render([answered(**options)])


def test_azure__boxes_with_polygons() -> None:
    (entry,) = json.loads(form("azure"))
    assert [box["label"] for box in entry["boxes"]] == ["ring", "part", "part"]
    assert set(entry["boxes"][0]) == {"box", "label", "score", "polygon"}
    assert np.array_equal(drawn(entry["boxes"][0]["polygon"]), shapes()[0])


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp"])
def test_azure__masks_as_pictures(kind: str) -> None:
    (entry,) = json.loads(form("azure", image_type=kind))
    for box, shape in zip(entry["boxes"], shapes(), strict=True):
        content = np.frombuffer(base64.b64decode(box["mask"]["image"]), np.uint8)
        picture = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
        assert picture is not None and box["mask"]["type"] == kind
        left, top = box["mask"]["left"], box["mask"]["top"]
        part = shape[top : top + picture.shape[0], left : left + picture.shape[1]]
        assert part.sum() == shape.sum() and np.array_equal(picture > 127, part > 0)


def test_azure__a_request_chooses_pictures() -> None:
    trained = replace(answered().prediction, export_as_image=True, image_type="bmp")
    for pictures, kind in (
        (MaskPictures(wanted=True), "bmp"),
        (MaskPictures(wanted=True, image_type="png"), "png"),
        (MaskPictures(wanted=False), None),
    ):
        shown = Answered(with_pictures(trained, pictures), ("ring", "part"))
        (entry,) = json.loads(ANSWERS.forms["azure"].render([shown]))
        assert [box.get("mask", {}).get("type") for box in entry["boxes"]] == [kind] * 3


def test_coco__results_with_segmentation() -> None:
    rows = json.loads(form("coco"))
    assert [row["category_id"] for row in rows] == [1, 2, 2]
    assert np.array_equal(coco_masks.decode(rows[0]["segmentation"]), shapes()[0])


def test_yolo__one_polygon_a_line() -> None:
    lines = form("yolo").splitlines()
    for line, shape in zip(lines, shapes(), strict=True):
        label, *numbers, score = line.split()
        assert label in "01" and 0 < float(score) < 1
        assert np.array_equal(drawn([[float(each) for each in numbers]]), shape)


def test_geojson__holes_and_parts() -> None:
    features = json.loads(form("geojson"))["features"]
    kinds = [feature["geometry"]["type"] for feature in features]
    assert kinds == ["Polygon", "MultiPolygon", "Polygon"]
    assert len(features[0]["geometry"]["coordinates"]) == 2  # the ring and its hole
    assert features[0]["geometry"]["coordinates"][0][0] == features[0]["geometry"]["coordinates"][0][-1]


def test_manifest__polygons_beside_boxes() -> None:
    """What the element ``crowd-polygon`` takes: one polygon an object, with vertices in pixels."""
    line = json.loads(form("manifest"))
    assert len(line["bounding-box"]["annotations"]) == 3
    assert line["polygon"]["inputImageProperties"] == {"height": HEIGHT, "width": WIDTH}
    polygons = line["polygon"]["polygons"]
    assert [polygon["label"] for polygon in polygons] == ["ring", "part", "part"]
    for polygon, shape in zip(polygons, shapes(), strict=True):
        points = np.array([[vertex["x"], vertex["y"]] for vertex in polygon["vertices"]])
        assert np.array_equal(rasterise([points], WIDTH, HEIGHT), shape)
    scores = [each["confidence"] for each in line["polygon-metadata"]["objects"]]
    assert scores == pytest.approx([0.9, 0.8, 0.7])


def test_label_studio__a_polygon_each() -> None:
    (task,) = json.loads(form("label-studio"))
    results = task["predictions"][0]["result"]
    assert {result["type"] for result in results} == {"polygonlabels"}
    for result, shape in zip(results, shapes(), strict=True):
        points = np.array(result["value"]["points"]) / 100 * (WIDTH, HEIGHT)
        assert np.array_equal(rasterise([points], WIDTH, HEIGHT), shape)
    assert [result["value"]["polygonlabels"] for result in results] == [["ring"], ["part"], ["part"]]


def test_cvat__pixels_of_each_along_its_rows() -> None:
    image = fromstring(form("cvat")).find("image")
    assert image is not None and [each.get("label") for each in image] == ["ring", "part", "part"]
    for element, shape in zip(image, shapes(), strict=True):
        left, top, width, height = (int(element.get(name, "")) for name in ("left", "top", "width", "height"))
        runs = [int(run) for run in element.get("rle", "").split(",")]
        inside = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
        drawn = np.zeros((HEIGHT, WIDTH), int)
        drawn[top : top + height, left : left + width] = inside
        assert element.tag == "mask" and np.array_equal(drawn, shape)


def test_an_object_without_a_mask__keeps_its_box() -> None:
    instances = answered().prediction.detections.select(slice(2, 3))
    empty = Masks.of([RunLengths(WIDTH, HEIGHT, np.array([WIDTH * HEIGHT]))])
    nothing = replace(instances, fields={MASKS: empty.crop((0, 0, WIDTH, HEIGHT), (WIDTH, HEIGHT))})
    one = Answered(SegmentedPrediction(WIDTH, HEIGHT, nothing), ("ring", "part"), "a.png")
    forms = {name: ANSWERS.forms[name].render([one]) for name in ("manifest", "label-studio", "cvat", "yolo")}
    assert [len(each["vertices"]) for each in json.loads(forms["manifest"])["polygon"]["polygons"]] == [4]
    (result,) = json.loads(forms["label-studio"])[0]["predictions"][0]["result"]
    assert len(result["value"]["points"]) == 4
    assert '<box label="part"' in forms["cvat"] and len(forms["yolo"].split()) == 10


def test_choose__masks_follow() -> None:
    chosen = ANSWERS.choose(answered().prediction, threshold=0.75, labels={1}, most=None)
    assert isinstance(chosen, SegmentedPrediction)
    (polygon,) = ANSWERS.content(Answered(chosen), as_annotation=False)["polygons"]
    assert np.array_equal(drawn(polygon), shapes()[1])


def test_draw__tints_the_masks() -> None:
    grey = np.full((3, HEIGHT, WIDTH), 128, np.uint8)
    picture = np.asarray(ANSWERS.draw(grey, answered()))
    assert picture[50, 30].tolist() != [128, 128, 128] and picture[50, 50].tolist() == [128, 128, 128]
    assert (grey == 128).all()
