from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tilewise.__main__ import main


class Tilewise:
    """``python -m tilewise``, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["tilewise", *map(str, arguments)])
        code = main()
        return code, *self.capsys.readouterr()


@pytest.fixture
def tilewise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tilewise:
    return Tilewise(monkeypatch, capsys)


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
        (("predict", image, "--endpoint", "http://127.0.0.1:9", "--tile-size", 9), "has its own tiles"),
        (
            ("predict", image, "--model", model_folder, "--tile-grid-size", "1x1"),
            "--tile-grid-size='1x1': must be",
        ),
        (("predict", tmp_path / "text.jpg", "--model", model_folder), "not an image"),
        (("predict", tmp_path / "none.jpg", "--model", model_folder), "No such file"),
        (("predict", image, image, "--model", model_folder), "several images are named a photo"),
    ]
    for arguments, words in cases:
        code, _, errors = tilewise(*arguments)
        assert code == 2
        assert words in errors
        assert "Traceback" not in errors


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
