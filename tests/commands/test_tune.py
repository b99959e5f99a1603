from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Tilewise
from PIL import Image, ImageDraw

SPACE = """
search_space:
  model_name: yolox_nano
  image_size: 64
  number_of_epochs: 2
  training_batch_size: 4
  use_pretrained_model: 0
  early_stopping: 0
  learning_rate: {type: loguniform, min_value: -8, max_value: -5}
limits: {max_trials: 2}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Red squares on grey: four images to train on, two to validate."""
    for channel, count in (("train", 4), ("validation", 2), ("test", 1)):
        folder = tmp_path / "data" / channel
        folder.mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", (64, 64), (90, 90, 90))
            left = 4 + 8 * number
            ImageDraw.Draw(image).rectangle((left, 20, left + 23, 43), fill=(240, 40, 30))
            image.save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"0 {(left + 12) / 64} 0.5 0.375 0.375\n")
    return tmp_path / "data"


def test_tune__trains_trials_and_leaves_table_picture_and_model(
    data: Path, tmp_path: Path, tilewise: Tilewise, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    space, out = tmp_path / "space.yaml", tmp_path / "out"
    space.write_text(SPACE)
    command = ("tune", str(data), "--space", str(space), "--out", str(out), "--objective", "AR")
    code, printed, errors = tilewise(*command, "--hyperparameters", "precision=fp32")
    assert code == 0, errors
    assert "trial 0: 0." in printed and "trial 1: 0." in printed and "the best of 2 by AR" in printed
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["learning_rate"] for row in rows}) == 2 and rows[0]["epochs"] == "2"
    best = json.loads((out / "best.json").read_text())
    metrics = json.loads((out / f"trial-{int(rows[0]['trial']):03d}/output/data/metrics.json").read_text())
    assert best["value"] == metrics["best"]["AR"] == float(rows[0]["AR"])
    described = json.loads((Path(best["model"]) / "model.json").read_text())
    assert described["hyperparameters"]["primary_metric"] == "AR"
    assert described["hyperparameters"]["precision"] == "fp32"
    assert (out / "trials.png").stat().st_size > 5000
    assert metrics["test"] is None  # is left for the model that is chosen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("DATA/train",), "holds no folder train"),
        (("DATA", "--hyperparameters", "learning_rate"), "learning_rate: give them as NAME=VALUE"),
        (
            ("DATA", "--space", "SPACE", "--hyperparameters", "learning_rate=0.1"),
            "learning_rate cannot be both fixed and searched",
        ),
        (("DATA", "--space", "SPACE", "--trials", "0"), "--trials must be at least 1"),
        (("DATA", "--space", "SPACE", "--minutes", "nan"), "--minutes above 0"),
        (("DATA", "--space", "SPACE", "--seed", "-1"), "--seed -1: give a whole number from 0"),
        (("DATA", "--space", "SPACE", "--hyperparameters", "optimizer=lion"), "must be one of sgd, adam"),
        (("DATA", "--space", "nowhere.yaml"), "nowhere.yaml"),
        (("DATA", "--space", "CONSTANT"), "nothing is searched"),
    ],
)
def test_tune__what_is_wrong_is_said_before_any_trial(
    arguments: tuple[str, ...], message: str, data: Path, tmp_path: Path, tilewise: Tilewise
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    constant = tmp_path / "constant.yaml"
    constant.write_text("model_name: yolox_nano\n")
    places = {"DATA": data, "SPACE": space, "CONSTANT": constant}
    words = [re.sub("DATA|SPACE|CONSTANT", lambda name: str(places[name[0]]), word) for word in arguments]
    code, _, errors = tilewise("tune", *words, "--out", tmp_path / "out")
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()


JOB = """
import os, time
print(os.getpid(), file=open(os.environ["SAGEMAKER_BASE_DIR"] + "/pid", "w"), flush=True)
time.sleep(60)
"""
TUNE = """
import pathlib, sys, tilewise.tuning.trial
tilewise.tuning.trial.PACKAGE = pathlib.Path(sys.argv.pop(1))
from tilewise.__main__ import main
sys.exit(main())
"""


def test_tune__that_is_stopped_stops_its_trial(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    package = tmp_path / "package" / "tilewise" / "commands"
    package.mkdir(parents=True)
    (package / "train.py").write_text(JOB)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (tmp_path / "space.yaml").write_text(SPACE)
    words = ("tune", data, "--space", tmp_path / "space.yaml", "--out", tmp_path / "out")
    tune = subprocess.Popen([sys.executable, "-c", TUNE, package.parents[1], *words])
    written = tmp_path / "out" / "trial-000" / "pid"
    try:
        while tune.poll() is None and not (written.exists() and written.read_text().endswith("\n")):
            time.sleep(0.1)
        tune.terminate()
        assert tune.wait(30) == 128 + signal.SIGTERM
    finally:
        tune.kill()
    assert not Path(f"/proc/{int(written.read_text())}").exists()


def test_tune__without_a_space_takes_what_suits_the_data(
    data: Path, tmp_path: Path, tilewise: Tilewise, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    from tilewise.tuning import trial

    seen = []

    def train(folder: Path, channels: list[str]) -> object:
        def one(job: trial.Trial, validated: object) -> dict[str, object]:
            seen.append((channels, job))
            return {"best": {"AP": 0.5}}

        return one

    monkeypatch.setattr("tilewise.commands.tune.train_in_process", train)
    code, _, errors = tilewise("tune", data, "--trials", 3, "--minutes", 6, "--out", tmp_path / "out")
    assert code == 0, errors
    assert len(seen) == 3 and seen[0][0] == ["train", "validation"]
    for _, job in seen:
        assert job.hyperparameters["minutes"] == "2" and "learning_rate" in job.hyperparameters
        assert job.hyperparameters["primary_metric"] == "AP"
