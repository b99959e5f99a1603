"""The comparison of two commits, with checkouts whose ``train`` is a few lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).resolve().parents[1] / "benchmarks" / "compare_commits.py"
JOBS = ("ssdlite", "ssdlite_processes")
TRAIN = """
import json, os, sys, time
from pathlib import Path

base = Path(os.environ["SAGEMAKER_BASE_DIR"])
raw = json.loads((base / "input/config/hyperparameters.json").read_text())
(base / "model/some.safetensors").write_bytes(b"weights")
(base / "model/model.json").write_text(json.dumps({"weights": "some.safetensors"}))
epoch = {"losses": {"classification": 0.5}, "seconds": time.time(), "validation_seconds": time.time()}
(base / "output/data/metrics.json").write_text(json.dumps({"epochs": [epoch]}))
with (Path(__file__).parent / "runs").open("a") as runs:
    runs.write(raw["training_batch_size"] + "\\n")
"""
ONE_OTHER = TRAIN.replace('b"weights"', 'b"weights" if raw["training_batch_size"] == "4" else b"others"')
OTHER_LOSS = TRAIN.replace("0.5", "0.25")
FAILS = TRAIN + "sys.exit('there is no such thing')\n"


def checkout(folder: Path, train: str) -> Path:
    (folder / "container").mkdir(parents=True)
    (folder / "train").write_text(train)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "train"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for name in ("train.json", "val.json"):
        (folder / name).write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    return folder


def compare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMMAND), *map(str, arguments), "--jobs", *JOBS]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_equal_results__pass_whatever_the_times(data: Path, tmp_path: Path) -> None:
    run = compare(data, checkout(tmp_path / "before", TRAIN), checkout(tmp_path / "after", TRAIN))
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("| equal |") == 2


def test_other_weights__fail_unless_they_are_expected(data: Path, tmp_path: Path) -> None:
    trees = checkout(tmp_path / "before", TRAIN), checkout(tmp_path / "after", ONE_OTHER)
    run = compare(data, *trees)
    assert run.returncode == 1
    assert "| ssdlite | equal |" in run.stdout
    assert "| ssdlite_processes | DIFFERS |" in run.stdout
    assert compare(data, *trees, "--expect", "ssdlite_processes").returncode == 0


def test_other_figures__are_named(data: Path, tmp_path: Path) -> None:
    run = compare(data, checkout(tmp_path / "before", TRAIN), checkout(tmp_path / "after", OTHER_LOSS))
    assert run.returncode == 1
    assert "epochs.0.losses.classification | 0.500000 → 0.250000" in run.stdout


def test_kept_results__are_not_run_again_but_for_a_changed_checkout(data: Path, tmp_path: Path) -> None:
    before, after = checkout(tmp_path / "before", TRAIN), checkout(tmp_path / "after", TRAIN + "# same\n")
    store = tmp_path / "kept.jsonl"
    compare(data, before, "--runs", store)
    assert compare(data, before, after, "--runs", store).returncode == 0
    assert (before / "runs").read_text().split() == ["4", "2"]
    (after / "train").write_text(OTHER_LOSS)
    assert compare(data, before, after, "--runs", store).returncode == 1
    assert len(store.read_text().splitlines()) == 4


def test_a_job_that_fails__shows_the_end_of_its_log(data: Path, tmp_path: Path) -> None:
    run = compare(data, checkout(tmp_path / "before", FAILS))
    assert run.returncode == 1
    assert "there is no such thing" in run.stderr
