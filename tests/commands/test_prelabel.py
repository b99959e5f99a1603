"""What ``tilewise prelabel`` and ``tilewise rank`` write, read by the tools that are to read it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from command_line import Tilewise
from PIL import Image
from pycocotools.coco import COCO
from tilewise.inference.artifact import add_to_description
from tilewise.instances import Instances
from tilewise.tasks.detection.active_learning import disagreement, most_informative_first, score_entropy

STUDIO = """<View><Image name="image" value="$image"/>
<RectangleLabels name="label" toName="image"><Label value="ant"/><Label value="bee"/></RectangleLabels>
</View>"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, and one that is none."""
    folder = tmp_path / "images"
    generator = np.random.default_rng(0)
    for name in ("a.png", "7.png", "deep/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def prelabel(tilewise: Tilewise, images: Path, model: Path, form: str, *more: object) -> tuple[str, Path]:
    out = images.parent / f"labels-{form}"
    options = ("--to", form, "--out", out, "--threshold", "0.3", *more)
    code, output, errors = tilewise("prelabel", images, "--model", model, *options)
    assert code == 0, errors
    assert "left out broken.png" in output
    return output, out


def read_coco(path: Path) -> COCO:
    return COCO(str(path))


def test_prelabel__coco_is_a_whole_file(tilewise: Tilewise, images: Path, model_folder: Path) -> None:
    output, out = prelabel(tilewise, images, model_folder, "coco")
    coco = read_coco(out)
    assert sorted(one["file_name"] for one in coco.imgs.values()) == ["7.png", "a.png", "deep/a.png"]
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == ["ant", "bee"]
    assert len(coco.anns) > 0
    assert f"3 images, {len(coco.anns)} objects from a score of 0.30 on" in output
    assert all(one["image_id"] in coco.imgs and one["score"] >= 0.3 for one in coco.anns.values())


def test_prelabel__all_forms_have_the_same_objects(
    tilewise: Tilewise, images: Path, model_folder: Path
) -> None:
    coco = read_coco(prelabel(tilewise, images, model_folder, "coco")[1])
    _, out = prelabel(tilewise, images, model_folder, "manifest", "--prefix", "s3://bucket/images/")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    names = [one["file_name"] for one in coco.imgs.values()]
    assert [line["source-ref"] for line in lines] == [f"s3://bucket/images/{name}" for name in names]
    _, out = prelabel(tilewise, images, model_folder, "label-studio")
    tasks: list[dict[str, Any]] = json.loads(out.read_text())
    for number, line, task in zip(coco.imgs, lines, tasks, strict=True):
        expected = coco.loadAnns(coco.getAnnIds(number))
        boxes = line["bounding-box"]["annotations"]
        results = task["predictions"][0]["result"]
        assert len(boxes) == len(results) == len(expected)
        for box, result, one in zip(boxes, results, expected, strict=True):
            left, _, width, _ = one["bbox"]
            assert (box["left"], box["class_id"] + 1) == (pytest.approx(left, abs=1), one["category_id"])
            assert result["value"]["width"] * 80 / 100 == pytest.approx(width)
        assert line["bounding-box-metadata"]["class-map"] == {"0": "ant", "1": "bee"}


def test_prelabel__label_studio_takes_the_predictions(
    tilewise: Tilewise, images: Path, model_folder: Path
) -> None:
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed")
    _, out = prelabel(tilewise, images, model_folder, "label-studio", "--prefix", "/data/local-files/?d=")
    tasks = json.loads(out.read_text())
    assert tasks[0]["data"]["image"].startswith("/data/local-files/?d=")
    checker = sdk.LabelInterface(STUDIO)
    for task in tasks:
        assert checker.validate_prediction(task["predictions"][0], return_errors=True) == []


def test_prelabel__cvat_has_every_box(tilewise: Tilewise, images: Path, model_folder: Path) -> None:
    coco = read_coco(prelabel(tilewise, images, model_folder, "coco")[1])
    _, out = prelabel(tilewise, images, model_folder, "cvat")
    shown = ElementTree.fromstring(out.read_text()).findall("image")
    expected = {one["file_name"]: len(coco.getAnnIds(number)) for number, one in coco.imgs.items()}
    assert {one.attrib["name"]: len(one.findall("box")) for one in shown} == expected


def test_prelabel__datumaro_reads_cvats_file(tilewise: Tilewise, images: Path, model_folder: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    _, out = prelabel(tilewise, images, model_folder, "cvat")
    expected = {
        Path(one.attrib["name"]).with_suffix("").as_posix(): len(one.findall("box"))
        for one in ElementTree.fromstring(out.read_text()).findall("image")
    }
    read = datumaro.Dataset.import_from(str(out.rename(out.with_suffix(".xml"))), "cvat")
    assert {item.id: len(item.annotations) for item in read} == expected
    names = [label.name for label in read.categories()[datumaro.AnnotationType.label]]
    assert names == ["ant", "bee"]


def test_prelabel__takes_what_the_model_recommends_for_each_class(
    tilewise: Tilewise, images: Path, model_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(model_folder, tmp_path / "model"))
    every = read_coco(prelabel(tilewise, images, model, "coco", "--threshold", "0")[1])
    ants, bees = scores(every, 1), scores(every, 2)
    recommended = {"ant": float(np.median(ants)), "bee": 2.0}
    add_to_description(model, {"recommended_threshold": 0.9, "recommended_thresholds": recommended})
    out = tmp_path / "recommended"
    code, output, errors = tilewise("prelabel", images, "--model", model, "--to", "coco", "--out", out)
    assert code == 0, errors
    assert f"from a score of {recommended['ant']:.2f} to 2.00, by class, on" in output
    coco = read_coco(out)
    assert scores(coco, 1) == [score for score in ants if score >= recommended["ant"]]
    assert len(bees) > 0 and scores(coco, 2) == []


def scores(coco: COCO, category: int) -> list[float]:
    return sorted(one["score"] for one in coco.anns.values() if one["category_id"] == category)


def test_prelabel__keeps_what_was_corrected(tilewise: Tilewise, images: Path, model_folder: Path) -> None:
    _, out = prelabel(tilewise, images, model_folder, "coco")
    code, _, errors = tilewise("prelabel", images, "--model", model_folder, "--to", "coco", "--out", out)
    assert (code, "may hold corrected labels" in errors) == (2, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--to", "manifest"], "give --prefix s3://bucket/folder/"),
        (["--to", "coco", "--threshold", "40"], "a score is a number from 0 to 1"),
    ],
)
def test_prelabel__says_what_is_wrong(
    tilewise: Tilewise, images: Path, model_folder: Path, given: list[str], message: str
) -> None:
    code, _, errors = tilewise("prelabel", images, "--model", model_folder, "--out", images / "out", *given)
    assert (code, message in errors) == (2, True), errors


@pytest.mark.parametrize("command", [("prelabel", "--to", "coco"), ("rank",)])
@pytest.mark.parametrize("out", [".", "images/a.png/labels"])
def test_commands__say_where_they_cannot_write_before_they_look_at_images(
    tilewise: Tilewise,
    images: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    out: str,
) -> None:
    monkeypatch.setattr("tilewise.inference.predictor.Predictor.predict", None)
    place = images.parent / out
    code, _, errors = tilewise(command[0], images, "--model", model_folder, "--out", place, *command[1:])
    assert code == 2
    assert f"--out {place}" in errors or f"{place} exists" in errors, errors


def test_prelabel__two_images_of_one_name(tilewise: Tilewise, images: Path, model_folder: Path) -> None:
    both = images / "a.png", images / "deep" / "a.png"
    code, _, errors = tilewise(
        "prelabel", *both, "--model", model_folder, "--to", "coco", "--out", images / "out"
    )
    assert (code, "several images are named a.png" in errors) == (2, True), errors


@pytest.mark.parametrize("command", [("prelabel", "--to", "cvat"), ("rank",), ("predict",)])
def test_commands__name_a_file_that_is_not_utf_8_before_they_look_at_images(
    tilewise: Tilewise, images: Path, model_folder: Path, command: tuple[str, ...]
) -> None:
    (images / os.fsdecode(b"\xff.png")).write_bytes((images / "a.png").read_bytes())
    (images / "deep" / "a.png").rename(images / "deep" / "b.png")  # predict wants names once
    out = images.parent / "out"
    code, _, errors = tilewise(*command, images, "--model", model_folder, "--out", out)
    assert code == 2 and "xff.png' is not UTF-8: rename it" in errors
    assert not out.is_file()


def test_predict__says_where_it_cannot_write(tilewise: Tilewise, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, errors = tilewise("predict", images / "a.png", "--model", tmp_path, "--out", tmp_path / "file")
    assert code == 2 and f"--out {tmp_path / 'file'} cannot be written: File exists" in errors


def test_rank__does_not_replace_its_table_by_the_manifest(
    tilewise: Tilewise, images: Path, model_folder: Path
) -> None:
    out = images.parent / "order.manifest"
    code, _, errors = tilewise(
        "rank", images, "--model", model_folder, "--out", out, "--s3-prefix", "s3://b/"
    )
    assert code == 2 and "the manifest beside the table has this name" in errors


def test_rank__writes_a_table(tilewise: Tilewise, images: Path, model_folder: Path) -> None:
    out = images.parent / "order.csv"
    code, output, errors = tilewise("rank", images, "--model", model_folder, "--out", out, "--by", "entropy")
    assert code == 0, errors
    assert "left out broken.png" in output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {row["image"] for row in rows} == {"a.png", "7.png", "deep/a.png"}
    entropies = [float(row["entropy"]) for row in rows]
    assert entropies == sorted(entropies, reverse=True) and entropies[-1] > 0
    assert all(0 < float(row["disagreement"]) <= 1 for row in rows)
    assert not out.with_suffix(".manifest").exists()
    more = ("--top", 1, "--s3-prefix", "s3://bucket/new/")
    code, _, errors = tilewise("rank", images, "--model", model_folder, "--out", out, *more)
    assert code == 0, errors
    (row,) = csv.DictReader(out.read_text().splitlines())
    (line,) = out.with_suffix(".manifest").read_text().splitlines()
    assert json.loads(line) == {"source-ref": f"s3://bucket/new/{row['image']}"}
    code, _, errors = tilewise("rank", images, "--model", model_folder, "--out", out, "--s3-prefix", "new")
    assert (code, "--s3-prefix new: give an address" in errors) == (2, True)


def found(*rows: tuple[list[float], float, int]) -> Instances:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Instances(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64)
    )


HERE, THERE = [0.0, 0, 10, 10], [50.0, 50, 60, 60]


def test_score_entropy__is_highest_where_a_score_says_nothing() -> None:
    assert score_entropy(found((HERE, 0.5, 0), (THERE, 0.5, 0))) == pytest.approx(2)
    assert score_entropy(found((HERE, 1.0, 0), (THERE, 0.01, 0))) == pytest.approx(0, abs=1e-6)
    assert score_entropy(found()) == 0


def test_disagreement__of_places_classes_and_scores() -> None:
    one = found((HERE, 0.8, 0))
    assert disagreement(one, one) == 0
    assert disagreement(one, found((THERE, 0.8, 0))) == 1
    assert disagreement(one, found((HERE, 0.8, 1))) == 1
    assert disagreement(one, found((HERE, 0.4, 0))) == pytest.approx(0.4 / 1.2)
    assert disagreement(one, found()) == 1
    assert disagreement(found(), found()) == 0


def test_most_informative_first__by_the_mean_place() -> None:
    assert most_informative_first([[1, 3, 2]]) == [1, 2, 0]
    assert most_informative_first([[0, 5, 9], [0, 7, 1]]) == [1, 2, 0]
    assert most_informative_first([[2, 2, 2]]) == [0, 1, 2]
