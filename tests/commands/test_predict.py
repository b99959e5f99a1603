from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from command_line import Tilewise
from PIL import Image
from tilewise.inference.artifact import Artifact
from tilewise.models.build import build_detector
from tilewise.models.spec import SegmenterSpec
from tilewise.rasters import decompressed
from tilewise.views.rendering import Rendering
from tilewise.views.view import Scaling


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return path


def test_predict__writes_a_picture_and_the_detections_and_keeps_the_image(
    tilewise: Tilewise, image: Path, model_folder: Path, tmp_path: Path
) -> None:
    before = image.read_bytes()
    code, output, errors = tilewise("predict", image, "--model", model_folder, "--out", tmp_path)
    assert code == 0, errors
    assert "a photo-detections.png" in output
    assert image.read_bytes() == before
    with Image.open(tmp_path / "a photo-detections.png") as picture:
        assert picture.size == (80, 60)
    answer = json.loads((tmp_path / "a photo-detections.json").read_text())
    assert answer["classes"] == ["ant", "bee"]
    assert len(answer["boxes"]) == len(answer["scores"]) == len(answer["labels"]) > 0
    assert answer["scores"] == sorted(answer["scores"], reverse=True)


GEOGRAPHY = [  # pixels of half a metre, north up
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 1000.0, 9000.0, 0.0), True),
    (34735, "H", 12, (1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32633), True),
]


def test_predict__places_what_it_finds_in_a_geotiff(
    tilewise: Tilewise, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilewise.data.decoding.decode.SCENE_PIXELS", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64), extratags=GEOGRAPHY)
    options = ("--model", model_folder, "--out", tmp_path, "--tile-size", 160, "--max-detections", 7)
    code, _, errors = tilewise("predict", tmp_path / "a.tif", *options)
    assert code == 0, errors
    answer = json.loads((tmp_path / "a-detections.json").read_text())
    places = json.loads((tmp_path / "a-detections.geojson").read_text())
    assert places["type"] == "FeatureCollection"
    assert places["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert len(places["features"]) == len(answer["boxes"]) == 7
    found = zip(places["features"], answer["boxes"], answer["scores"], answer["labels"], strict=True)
    for feature, (x0, y0, x1, y1), score, label in found:
        name = ("ant", "bee")[label]
        assert feature["properties"] == {"class": name, "label": label, "score": score}
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1] and len(ring) == 5
        (west, south), _, (east, north), *_ = ring
        expected = (1000 + x0 / 2, 9000 - y1 / 2, 1000 + x1 / 2, 9000 - y0 / 2)
        assert (west, south, east, north) == pytest.approx(expected)
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
        assert area > 0  # counterclockwise, as RFC 7946 has outer rings


def test_predict__masks_in_the_answer_and_on_the_map(
    tilewise: Tilewise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilewise.commands.predict.PICTURE_SIDE", 200)
    spec = SegmenterSpec("maskyolox_nano", 2, Scaling(square=128), None, 0.0, 0.5, 20)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = build_detector(spec).eval()
    artifact = Artifact(detector, spec, ("ant", "bee"), {}, {}, task="instance_segmentation")
    (tmp_path / "model").mkdir()
    artifact.save(tmp_path / "model", "model")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64), extratags=GEOGRAPHY)
    options = ("--model", tmp_path / "model", "--out", tmp_path, "--threshold", 0, "--max-detections", 7)
    code, _, errors = tilewise("predict", tmp_path / "a.tif", *options)
    assert code == 0, errors
    with Image.open(tmp_path / "a-detections.png") as picture:
        assert picture.size == (200, 150)
    answer = json.loads((tmp_path / "a-detections.json").read_text())
    features = json.loads((tmp_path / "a-detections.geojson").read_text())["features"]
    assert len(answer["segmentation"]) == len(features) == len(answer["boxes"]) == 7
    areas = [int(decompressed(each["counts"].encode())[1::2].sum()) for each in answer["segmentation"]]
    assert max(areas) > 0 and all(each["size"] == [300, 400] for each in answer["segmentation"])
    for feature, pixels_inside in zip(features, areas, strict=True):
        parts = feature["geometry"]["coordinates"]
        if not pixels_inside:
            continue
        parts = [parts] if feature["geometry"]["type"] == "Polygon" else parts
        rings = [ring for part in parts for ring in part]
        area = sum(a[0] * b[1] - b[0] * a[1] for ring in rings for a, b in itertools.pairwise(ring)) / 2
        assert area == pytest.approx(pixels_inside / 4)  # pixels of half a metre; holes turn the other way


def test_predict__says_where_the_models_limit_cuts(
    tilewise: Tilewise, image: Path, model_folder: Path, tmp_path: Path
) -> None:
    artifact = Artifact.load(model_folder)
    spec = replace(artifact.spec, detections_per_image=3)
    replace(artifact, spec=spec).save(tmp_path, "model")
    options = ("--model", tmp_path, "--out", tmp_path)
    _, output, _ = tilewise("predict", image, *options)
    assert "3 detections, as many as the model keeps of an image: --max-detections keeps more" in output
    _, output, _ = tilewise("predict", image, *options, "--max-detections", 20)
    assert "keeps more" not in output
    assert len(json.loads((tmp_path / "a photo-detections.json").read_text())["boxes"]) > 3


def test_predict__draws_the_bands_that_the_model_sees(
    tilewise: Tilewise, model_folder: Path, tmp_path: Path
) -> None:
    artifact = Artifact.load(model_folder)
    rendering = Rendering(bands=(4, 3, 2), pixel_range=(0, 4000))
    inner = tmp_path / "packed" / "model"  # below a top folder, as some archives have one
    inner.mkdir(parents=True)
    replace(artifact, spec=replace(artifact.spec, rendering=rendering)).save(inner, "model")
    bands = np.stack([np.full((90, 120), value, np.uint16) for value in (100, 200, 300, 3000)], axis=2)
    tifffile.imwrite(tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig")
    options = ("--model", tmp_path / "packed", "--out", tmp_path, "--threshold", 1)
    code, _, errors = tilewise("predict", tmp_path / "a.tif", *options)
    assert code == 0, errors
    with Image.open(tmp_path / "a-detections.png") as picture:
        assert picture.getpixel((119, 89)) == (191, 19, 13)


def test_evaluate__prints_figures_as_json(
    tilewise: Tilewise, image: Path, model_folder: Path, tmp_path: Path
) -> None:
    coco = {
        "images": [{"id": 9, "file_name": image.name, "width": 80, "height": 60}],
        "annotations": [{"id": 1, "image_id": 9, "category_id": 4, "bbox": [10, 10, 30, 20]}],
        "categories": [{"id": 4, "name": "bee"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(coco))
    code, output, errors = tilewise("evaluate", tmp_path / "val.json", tmp_path, "--model", model_folder)
    assert code == 0, errors
    figures = json.loads(output)
    assert set(figures["AP_class"]) == {"ant", "bee"}
    assert figures["AP_class"]["ant"] is None


def test_commands__errors_are_one_sentence_and_end_with_2(
    tilewise: Tilewise, image: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    cases = [
        (("predict", image), "give --model DIR or --endpoint URL"),
        (("predict", image, "--model", tmp_path), "holds no model of Tilewise"),
        (("predict", image, "--endpoint", "http://127.0.0.1:9"), "does not answer"),
        (
            ("predict", image, "--endpoint", "localhost:8080"),
            "give an address, such as http://127.0.0.1:8080",
        ),
        (("predict", image, "--endpoint", "http://127.0.0.1:9", "--tile-size", 9), "has its own tiles"),
        (("predict", image, "--endpoint", "http://127.0.0.1:9", "--max-detections", 9), "goes with --model"),
        (
            ("predict", image, "--model", model_folder, "--tile-grid-size", "1x1"),
            "--tile-grid-size='1x1': must be",
        ),
        (("predict", tmp_path / "text.jpg", "--model", model_folder), "not an image"),
        (("predict", tmp_path / "none.jpg", "--model", model_folder), "none.jpg does not exist"),
        (
            ("predict", image, "--model", model_folder, "--threshold", "nan"),
            "a score is a number from 0 to 1",
        ),
        (("predict", image, "--model", model_folder, "--max-detections", 0), "give a number from 1 on"),
        (
            ("predict", image, "--model", model_folder / "model.json"),
            "is a file, where the folder",
        ),
        (("evaluate", image, tmp_path, "--model", model_folder, "--iou", 0), "give a number above 0"),
        (("predict", image, image, "--model", model_folder), "several images are named a photo"),
    ]
    for arguments, words in cases:
        code, _, errors = tilewise(*arguments)
        assert code == 2
        assert words in errors
        assert "Traceback" not in errors


def test_predict__shows_what_the_model_recommends_for_each_class(
    tilewise: Tilewise, image: Path, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    description = json.loads((folder / "model.json").read_text())
    options = ("predict", image, "--out", tmp_path, "--model", folder)
    for recommended, scores in (({"ant": 0.0, "bee": 1.0}, "0 to 1 or more"), ({}, "score 0.25 or more")):
        card = {"recommended_threshold": 0.25, "recommended_thresholds": recommended}
        (folder / "model.json").write_text(json.dumps(description | card))
        code, output, errors = tilewise(*options)
        assert code == 0, errors
        assert scores in output
    assert "score 0.9 or more" in tilewise(*options, "--threshold", 0.9)[1]
    card["score_calibration"] = {"temperature": 1.0, "bias": 1.0}
    (folder / "model.json").write_text(json.dumps(description | card))
    assert "score 0.48 or more" in tilewise(*options, "--calibrated")[1]


def test_predict__an_archive_that_is_not_unpacked(tilewise: Tilewise, image: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").touch()
    assert (
        "tar xzf model.tar.gz -C model" in tilewise("predict", image, "--model", tmp_path / "model.tar.gz")[2]
    )
    assert "unpack model.tar.gz there" in tilewise("predict", image, "--model", tmp_path)[2]


def test_predict__passes_over_its_own_pictures(
    tilewise: Tilewise, image: Path, model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b-detections.png"):  # the second is a user's own
        shutil.copy(image, folder / name)
    for _ in range(2):
        code, output, errors = tilewise("predict", folder, "--model", model_folder, "--out", folder)
        assert code == 0, errors
    assert "2 pictures of an earlier tilewise predict passed over" in output
    assert {path.name for path in folder.glob("*.png")} == {
        "a.png",
        "a-detections.png",
        "b-detections.png",
        "b-detections-detections.png",
    }


def test_predict__a_folder_and_a_damaged_image_is_named_and_left_out(
    tilewise: Tilewise, image: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "0 text.jpg").write_text("no image")
    code, output, errors = tilewise("predict", tmp_path, "--model", model_folder, "--out", tmp_path / "out")
    assert code == 0, errors
    assert "left out 0 text.jpg: " in output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a photo-detections.json",
        "a photo-detections.png",
    ]


def test_evaluate__names_a_damaged_image(
    tilewise: Tilewise, image: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "b.png").write_bytes(image.read_bytes()[:-3000])
    coco = {
        "images": [
            {"id": number, "file_name": name, "width": 80, "height": 60}
            for number, name in enumerate((image.name, "b.png"))
        ],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 4, "bbox": [10, 10, 30, 20]}],
        "categories": [{"id": 4, "name": "bee"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(coco))
    code, _, errors = tilewise("evaluate", tmp_path / "val.json", tmp_path, "--model", model_folder)
    assert code == 2
    assert "1 of 2 images cannot be used, more than 5%; fix or remove them, starting with: b.png: " in errors


def test_hyperparameters__prints_the_page_in_docs() -> None:
    command = [sys.executable, "-m", "tilewise", "hyperparameters"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output == (Path(__file__).resolve().parents[2] / "docs" / "hyperparameters.md").read_text()


def test_predict__with_tiles(tilewise: Tilewise, image: Path, model_folder: Path, tmp_path: Path) -> None:
    counts = []
    for tiles in ((), ("--tile-grid-size", "2x2", "--tile-merge", "nms")):
        code, _, errors = tilewise("predict", image, "--model", model_folder, "--out", tmp_path, *tiles)
        assert code == 0, errors
        counts.append(len(json.loads((tmp_path / "a photo-detections.json").read_text())["boxes"]))
    assert counts[1] > counts[0]
