"""A scene that may not be decoded as a whole trains, and is predicted: benchmarks/scene.py in small."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image
from training_job import QUICK, Job

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from scene import write_coco, write_scene

SIDE = 7168
MAX_PIXELS = {"TILEWISE_MAX_PIXELS": "4000000"}


def test_scene__trains_and_is_predicted_by_parts(tmp_path: Path) -> None:
    job = Job(tmp_path / "ml")
    scene = job.channel("train") / "scene.tif"
    places = write_scene(scene, SIDE, 12)
    write_coco(job.channel("train") / "coco.json", scene.name, SIDE, places)
    tiled = {"tile_size": "1024", "number_of_epochs": "1", "validation_metric_type": "none"}
    code, output = job.run(QUICK | tiled, environ=MAX_PIXELS)
    assert code == 0, output
    assert re.search(r"left out, unusable +0\n", output)
    out = tmp_path / "found"
    options = ["--model", str(job.base / "model"), "--out", str(out)]
    command = [sys.executable, "-m", "tilewise", "predict", str(scene), *options]
    done = subprocess.run(command, env=os.environ | MAX_PIXELS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads((out / "scene-detections.json").read_text())
    assert answer["classes"] == ["thing"] and answer["boxes"]
    with Image.open(out / "scene-detections.png") as picture:
        assert picture.size == (SIDE, SIDE)
