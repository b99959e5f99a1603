from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from tilewise.__main__ import main
from tilewise.commands import convert
from tilewise.data.recordio import scan


@pytest.fixture
def tilewise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tilewise", *map(str, arguments)])
        code = main()
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """24 images: the first without objects, the second with a crowd, and one object each in the others."""
    folder = tmp_path / "source"
    folder.mkdir()
    images, annotations = [], []
    for number in range(24):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(folder / f"{number:02}.png")
        images.append({"id": number, "file_name": f"{number:02}.png", "width": 64, "height": 48})
        if number:
            box = {"id": number, "image_id": number, "category_id": 7, "bbox": [8, 12, 16, 24]}
            annotations.append({**box, "iscrowd": int(number == 1)})
    categories = [{"id": 7, "name": "bee"}, {"id": 3, "name": "ant"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def test_convert__recordio_with_all_options(tilewise: Any, source: Path, tmp_path: Path) -> None:
    options = ("--name", "val", "--with-size", "--skip-empty", "--classes", "bee", "ant")
    code, output, errors = tilewise("convert", source, tmp_path / "out", "--to", "recordio", *options)
    assert code == 0, errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["val.idx", "val.lst", "val.rec"]
    records = list(scan(tmp_path / "out" / "val.rec"))
    assert [record.id for record in records] == list(range(23))
    assert records[0].labels.tolist() == [4, 6, 64, 48, 0, 0.125, 0.25, 0.375, 0.75, 1]
    assert records[1].labels.tolist() == [4, 6, 64, 48, 0, 0.125, 0.25, 0.375, 0.75, 0]
    assert "23 images" in output and "with 23 boxes as recordio" in output
    assert "classes: 0 bee, 1 ant" in output
    assert "1 images without objects left out, as --skip-empty says" in output


def test_convert__warns_of_what_mxnet_refuses(tilewise: Any, source: Path, tmp_path: Path) -> None:
    _, output, _ = tilewise("convert", source, tmp_path / "out", "--to", "recordio")
    assert "24 images" in output and "1 images without objects: MXNet refuses the file" in output


@pytest.fixture
def outlined(source: Path) -> Path:
    """The same: the second object has a mask of two parts, the third one with a hole, the fourth polygons."""
    content = json.loads((source / "coco.json").read_text())
    frame = np.zeros((48, 64), np.uint8)
    frame[12:36, 8:24] = 1
    frame[20:24] = 0
    parts = coco_masks.encode(np.asfortranarray(frame))
    frame[12:36, 8:24] = 1
    frame[20:24, 12:16] = 0
    ring = coco_masks.encode(np.asfortranarray(frame))
    polygon = [[8, 12, 24, 12, 24, 36, 8, 36]]
    for annotation, mask in zip(content["annotations"][1:], (parts, ring, polygon), strict=False):
        text = mask if isinstance(mask, list) else {**mask, "counts": mask["counts"].decode()}
        annotation["segmentation"] = text
    (source / "coco.json").write_text(json.dumps(content))
    return source


AREAS = [16 * 20, 16 * 24 - 16, 16 * 24]


@pytest.mark.parametrize("form", ["coco", "azure-jsonl", "yolo-seg"])
@pytest.mark.parametrize("masks", ["as-read", "polygons", "rle"])
def test_convert__masks_there_and_back(
    tilewise: Any, outlined: Path, tmp_path: Path, form: str, masks: str
) -> None:
    options = ("--masks", masks) if form == "coco" else ()
    code, output, errors = tilewise("convert", outlined, tmp_path / "there", "--to", form, *options)
    assert code == 0, errors
    assert "and 3 masks" in output
    code, output, errors = tilewise("convert", tmp_path / "there", tmp_path / "back", "--to", "coco")
    assert code == 0, errors
    rows = json.loads((tmp_path / "back" / "coco.json").read_text())["annotations"]
    found = [row for row in rows if "segmentation" in row]
    if form == "yolo-seg":  # the others are their boxes' polygons
        assert len(found) == 22
    assert [row["area"] for row in found[:3]] == AREAS
    kinds = [type(row["segmentation"]).__name__ for row in found[:3]]
    if form == "coco":
        assert kinds == {"rle": ["dict"] * 3, "polygons": ["list", "dict", "list"]}.get(
            masks, ["dict", "dict", "list"]
        )


def test_convert__without_masks(tilewise: Any, outlined: Path, tmp_path: Path) -> None:
    code, output, _ = tilewise("convert", outlined, tmp_path / "out", "--to", "coco", "--masks", "none")
    assert code == 0 and " masks " not in output
    rows = json.loads((tmp_path / "out" / "coco.json").read_text())["annotations"]
    assert not any("segmentation" in row for row in rows)
    code, _, errors = tilewise("convert", outlined, tmp_path / "no", "--to", "yolo", "--masks", "rle")
    assert code == 2 and "--masks rle goes with --to coco only" in errors


@pytest.mark.parametrize("form", [form for form in convert.FORMATS if form not in convert.HOLD_MASKS])
def test_convert__counts_masks_that_get_lost(
    tilewise: Any, outlined: Path, tmp_path: Path, form: str
) -> None:
    code, output, errors = tilewise("convert", outlined, tmp_path / "out", "--to", form)
    assert code == 0, errors
    assert f"3 masks left out: --to {form} holds boxes alone" in output
    _, output, _ = tilewise("convert", tmp_path / "out", tmp_path / "boxes", "--to", form)
    assert "masks left out" not in output  # there are none


def test_inspect__counts_and_draws_masks(tilewise: Any, outlined: Path, tmp_path: Path) -> None:
    code, output, errors = tilewise("inspect", outlined, "--out", tmp_path / "with")
    assert code == 0, errors
    assert re.search(r"with a mask +3\n", output) and re.search(r"without, for boxes only +20\n", output)
    tilewise("convert", outlined, tmp_path / "boxes", "--to", "coco", "--masks", "none")
    code, output, _ = tilewise("inspect", tmp_path / "boxes", "--out", tmp_path / "without")
    assert code == 0 and "with a mask" not in output
    pictures = [(tmp_path / name / "inspect.png").read_bytes() for name in ("with", "without")]
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize("form", [form for form in convert.FORMATS if form != "coco"])
def test_convert__there_and_back(tilewise: Any, source: Path, tmp_path: Path, form: str) -> None:
    tilewise("convert", source, tmp_path / "there", "--to", form)
    code, _, errors = tilewise(
        "convert", tmp_path / "there", tmp_path / "back", "--to", "coco", "--classes", "ant", "bee"
    )
    assert code == 0, errors
    content = json.loads((tmp_path / "back" / "coco.json").read_text())
    marks = form in ("recordio", "voc", "cvat", "labelme", "azure-jsonl")
    assert [one["bbox"] for one in content["annotations"]] == [[8, 12, 16, 24]] * (23 if marks else 22)
    assert {one["category_id"] for one in content["annotations"]} == {2}
    assert sum(one["iscrowd"] for one in content["annotations"]) == (1 if marks else 0)
    images = {(tmp_path / "back" / "images" / one["file_name"]).read_bytes() for one in content["images"]}
    assert images == {path.read_bytes() for path in source.glob("*.png")}


def test_convert__some_classes_and_some_images(tilewise: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(source / f"{number}.png")
        (source / f"{number}.txt").write_text("0 0.2 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n2 0.8 0.5 0.1 0.1\n")
    (source / "classes.txt").write_text("ant\nbee\ncat\n")
    options = ("--only", "cat", "ant", "--other-classes", "ignore", "--max-images", 4, "--seed", 1)
    code, output, errors = tilewise("convert", source, tmp_path / "out", "--to", "coco", *options)
    assert code == 0, errors
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [one["name"] for one in content["categories"]] == ["cat", "ant"] and len(content["images"]) == 4
    first = [one for one in content["annotations"] if one["image_id"] == content["images"][0]["id"]]
    kinds = sorted((one["category_id"], one["iscrowd"], round(one["bbox"][0])) for one in first)
    ids = [one["id"] for one in content["categories"]]
    assert kinds == sorted([(ids[0], 0, 48), (ids[1], 0, 10), (ids[0], 1, 29), (ids[1], 1, 29)])
    assert "4 images" in output and "classes: 0 cat, 1 ant" in output
    code, _, errors = tilewise("convert", source, tmp_path / "no", "--to", "coco", "--max-images", 0)
    assert code == 2 and "--max-images is 0: it must be at least 1" in errors


@pytest.mark.parametrize("form", ["azure-jsonl", "voc", "via"])
def test_convert__counts_classes_that_get_lost(tilewise: Any, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    Image.new("RGB", (80, 60)).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [5, 5, 20, 20]}],
        "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    code, printed, errors = tilewise("convert", folder, tmp_path / "out", "--to", form)
    assert code == 0, errors
    assert "1 classes without objects, which " in printed


def test_convert__annotations_elsewhere(tilewise: Any, source: Path, tmp_path: Path) -> None:
    file = tmp_path / "val.json"
    (source / "coco.json").rename(file)
    code, output, errors = tilewise(
        "convert", source, tmp_path / "out", "--annotations", file, "--to", "image-json"
    )
    assert code == 0, errors
    assert "1 ignored boxes (crowds, difficult objects) left out" in output
    content = json.loads((tmp_path / "out" / "annotations" / "02.json").read_text())
    assert content == {
        "file": "02.png",
        "image_size": [{"width": 64, "height": 48, "depth": 3}],
        "annotations": [{"class_id": 1, "left": 8, "top": 12, "width": 16, "height": 24}],
        "categories": [{"class_id": 0, "name": "ant"}, {"class_id": 1, "name": "bee"}],
    }


@pytest.mark.parametrize("form", ["manifest", "label-studio", "cvat", "via"])
def test_convert__annotations_in_one_file_elsewhere(
    tilewise: Any, source: Path, tmp_path: Path, form: str
) -> None:
    tilewise("convert", source, tmp_path / "there", "--to", form)
    (file,) = (
        path for path in (tmp_path / "there").iterdir() if path.is_file() and path.name != "config.xml"
    )
    file = file.rename(tmp_path / file.name)
    code, _, errors = tilewise(
        "convert", tmp_path / "there", tmp_path / "back", "--annotations", file, "--to", "coco"
    )
    assert code == 0, errors
    assert len(json.loads((tmp_path / "back" / "coco.json").read_text())["annotations"]) >= 22


def test_convert__label_studio_with_images_in_s3(tilewise: Any, source: Path, tmp_path: Path) -> None:
    options = ["--to", "label-studio", "--s3-prefix", "s3://bucket/path/"]
    code, _, errors = tilewise("convert", source, tmp_path / "out", *options)
    assert code == 0, errors
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert tasks[0]["data"]["image"].startswith("s3://bucket/path/images/")
    assert (tmp_path / "out" / "config.xml").read_text().count("<Label value=") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{source}", "{source}/out"], "which would then hold two formats"),
        (["{source}", "{full}"], "is there already: give a new folder, or an empty one"),
        (["{source}", "{out}", "--name", "a/b"], "it must be a plain name"),
        (
            ["{source}", "{out}", "--s3-prefix", "s3://b"],
            "--s3-prefix goes with --to manifest or label-studio only",
        ),
        (["{source}", "{out}", "--classes", "ant"], "does not know: --classes has (ant)"),
        (["{source}", "{out}", "--classes", "ant", "ant"], "--classes names a class twice"),
        (["{source}", "{out}", "--max-images", "3", "--seed", "-1"], "--seed -1: give a whole number from 0"),
        (["{full}", "{out}"], "channel train holds no images"),
    ],
)
def test_convert__refuses_and_leaves_nothing(
    tilewise: Any, source: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.md").touch()
    places = {"source": source, "full": full, "out": tmp_path / "out"}
    code, _, errors = tilewise(
        "convert", *(argument.format(**places) for argument in arguments), "--to", "coco"
    )
    assert code == 2 and words in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "source"]


def test_convert__images_that_cannot_be_used(tilewise: Any, source: Path, tmp_path: Path) -> None:
    (source / "05.png").write_bytes(b"no image")
    code, output, _ = tilewise("convert", source, tmp_path / "one", "--to", "coco")
    assert code == 0 and "1 images left out, unusable (named above)" in output
    (source / "06.png").write_bytes(b"no image")
    code, _, errors = tilewise("convert", source, tmp_path / "two", "--to", "coco")
    assert code == 2 and "2 of 24 images cannot be used, more than 5%" in errors
    assert not (tmp_path / "two").exists()


def test_convert__a_line_now_and_then_without_a_terminal(
    tilewise: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "SECONDS_BETWEEN_LINES", -1)
    _, _, errors = tilewise("convert", source, tmp_path / "out", "--to", "coco")
    assert "23 of 24 images" in errors and "%|" not in errors
