"""``tilewise errors``: a table and a page of what a model contradicts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Tilewise
from PIL import Image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images as COCO, one of them damaged, and an object of each class."""
    folder = tmp_path / "data"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    content = {
        "images": [
            {"id": number, "file_name": name, "width": 80, "height": 60}
            for number, name in enumerate(("a.png", "broken.png"))
        ],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 0, "bbox": [30, 20, 9, 9], "area": 81, "iscrowd": 0},
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 2, 9, 9], "area": 81, "iscrowd": 0},
        ],
        "categories": [{"id": 0, "name": "ant"}, {"id": 1, "name": "bee"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def test_errors__writes_a_table_and_a_page_with_pictures(
    tilewise: Tilewise, data: Path, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "errors"
    code, output, errors = tilewise("errors", data, "--model", model_folder, "--out", out, "--top", 7)
    assert code == 0, errors
    assert "left out broken.png" in output and "errors.html: 7 likely errors (" in output
    rows = list(csv.DictReader((out / "errors.csv").read_text().splitlines()))
    assert [row["place"] for row in rows] == [str(place) for place in range(1, 8)]
    suspicions = [float(row["suspicion"]) for row in rows]
    assert suspicions == sorted(suspicions, reverse=True) and suspicions[-1] > 0
    page = (out / "errors.html").read_text()
    for row in rows:
        assert row["image"] == "a.png" and row["kind"] in page
        assert f'src="{row["picture"]}"' in page
        with Image.open(out / row["picture"]) as picture:
            assert max(picture.size) == 320
        if row["kind"] == "no box":
            assert row["found_class"] in ("ant", "bee") and float(row["found_score"]) > 0
            assert float(row["found_xmax"]) > float(row["found_xmin"]) and row["xmin"] == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--top", "0"], "--top 0: give a number from 1 on"),
        (["--out", "."], "is not an empty folder"),
    ],
)
def test_errors__says_what_is_wrong(
    tilewise: Tilewise,
    data: Path,
    model_folder: Path,
    given: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(data)
    code, _, errors = tilewise("errors", data, "--model", model_folder, "--out", data / "out", *given)
    assert (code, message in errors) == (2, True), errors


def test_errors__needs_a_model_for_the_classes(tilewise: Tilewise, data: Path, tmp_path: Path) -> None:
    code, _, errors = tilewise("errors", data, "--endpoint", "http://127.0.0.1:1", "--out", tmp_path / "out")
    assert (code, "give --model DIR" in errors) == (2, True)
