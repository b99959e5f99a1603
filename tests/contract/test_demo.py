"""``local_test/demo.sh`` from end to end: the whole way, and the endpoint's mAP against the logged one."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DEMO = Path(__file__).resolve().parents[2] / "local_test" / "demo.sh"


def write_squares(folder: Path, train: int = 24, val: int = 4) -> None:
    """A data set that a detector learns in a few dozen steps: bright squares on noise."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for index in range(count):
            pixels = rng.integers(80, 120, (120, 160, 3), dtype=np.uint8)
            for x, y in rng.integers((0, 0), (110, 70), size=(2, 2)).tolist():
                pixels[y : y + 40, x : x + 40] = (240, 60, 40)
                box = [x, y, 40, 40]
                number = len(annotations) + 1
                annotations.append({"id": number, "image_id": index, "category_id": 3, "bbox": box})
            name = f"{split} {index}.png"
            Image.fromarray(pixels).save(folder / "images" / name)
            images.append({"id": index, "file_name": name, "width": 160, "height": 120})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "square"}]}
        (folder / f"{split}.json").write_text(json.dumps(content))


def run_demo(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = os.environ | {"PORT": str(port), "RUN": str(tmp_path / "run")}
    command = ["bash", str(DEMO), *arguments]
    done = subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400
    )
    return done.returncode, done.stdout


def test_demo__users_data_to_a_picture_and_the_endpoint_gives_the_logged_map(tmp_path: Path) -> None:
    write_squares(tmp_path / "data")
    chosen = ("image_size=128", "number_of_epochs=40", "evaluation_frequency=20", "training_batch_size=4")
    code, output = run_demo(tmp_path, "--data", str(tmp_path / "data"), *chosen)
    assert code == 0, output
    pairs = re.findall(r"^(AP\d*): logged (\S+), from the endpoint's answers (\S+)$", output, re.MULTILINE)
    assert [name for name, _, _ in pairs] == ["AP", "AP50"], output
    for name, logged, answered in pairs:
        assert float(answered) == pytest.approx(float(logged), abs=0.001), name
    assert float(pairs[1][1]) > 0.2, "the detector has learnt nothing, so the figures say little"
    picture = re.search(r"The picture: (.+\.png) ", output)
    assert picture is not None, output
    with Image.open(picture[1]) as image:
        assert image.size == (160, 120)
    assert (tmp_path / "run" / "model.tar.gz").stat().st_size > 1_000_000


def test_demo__azures_tiles_are_trained_with_and_the_endpoint_gives_the_logged_map(tmp_path: Path) -> None:
    write_squares(tmp_path / "data", train=12)
    chosen = ["image_size=128", "tile_grid_size=3x2", "training_batch_size=4"]
    chosen += ["number_of_epochs=10", "evaluation_frequency=10"]
    code, output = run_demo(tmp_path, "--data", str(tmp_path / "data"), *chosen)
    assert code == 0, output
    assert "each image is seen as the whole image and 3x2 tiles with an overlap of 0.25" in output
    pairs = re.findall(r"^(AP\d*): logged (\S+), from the endpoint's answers (\S+)$", output, re.MULTILINE)
    assert [name for name, _, _ in pairs] == ["AP", "AP50"], output
    for name, logged, answered in pairs:
        assert float(answered) == pytest.approx(float(logged), abs=0.005), name
    assert float(pairs[1][1]) > 0.1, "the detector has learnt nothing, so the figures say little"
    detector = json.loads((tmp_path / "run" / "opt_ml" / "model" / "model.json").read_text())["detector"]
    assert detector["tiling"]["grid"] == [3, 2]


@pytest.mark.parametrize(
    "arguments", [("--data", "nowhere"), ("--what",)], ids=["no_folder", "unknown_option"]
)
def test_demo__wrong_arguments_end_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    code, output = run_demo(tmp_path, *arguments)
    assert code == 2, output


def test_demo__folder_without_annotations_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    code, output = run_demo(tmp_path, "--data", str(tmp_path / "data"))
    assert code == 2
    assert "holds no train.json" in output
