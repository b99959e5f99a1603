"""The tutorial of docs/two_stages.md with small models: two jobs on one data set, joined, and served."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from endpoint_process import serving
from training_job import QUICK, ROOT, Job

SCRIPT = ROOT / "examples" / "two_stages.py"
CROPS = {
    "task": "classification",
    "objects_as": "crops",
    "model_name": "resnet18",
    "weighted_loss": "2",
    "training_crop_size": "32",
    "validation_crop_size": "32",
    "validation_resize_size": "36",
    "training_batch_size": "8",
    "number_of_epochs": "6",
    "learning_rate": "0.02",
    "num_workers": "0",
    "use_pretrained_model": "0",
    "seed": "1",
}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path, Path]:
    """A job's data, and what the two jobs on them left: a folder, and an archive."""
    folder = tmp_path_factory.mktemp("jobs")
    left = []
    for name, raw in (("detector", QUICK | {"number_of_epochs": "1"}), ("classifier", CROPS)):
        job = Job(folder / name)
        for channel, count in (("train", 12), ("validation", 4)):
            job.add_images(channel, count)
        code, log = job.run(raw)
        assert code == 0, log
        left.append(job.base / "model")
    with tarfile.open(folder / "classifier.tar.gz", "w:gz") as archive:
        archive.add(left[1], "classifier")
    return job, left[0], folder / "classifier.tar.gz"


def test_joined__one_endpoint_finds_and_classifies(models: tuple[Job, Path, Path], tmp_path: Path) -> None:
    job, detector, classifier = models
    done = run(detector, classifier, tmp_path / "model.tar.gz", "--score-threshold", 0.001)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "model")
    image = sorted(job.channel("validation").iterdir())[1].read_bytes()
    with serving(tmp_path / "model", tmp_path) as server:
        server.wait_until_ready()
        answer = json.loads(server.invoke(image)[2])
    assert answer["classes"] == ["red", "blue"]
    assert answer["prediction"] and all(0 <= row[1] <= 1 and row[0] in (0, 1) for row in answer["prediction"])


def test_join__the_wrong_way_round_or_no_model(models: tuple[Job, Path, Path], tmp_path: Path) -> None:
    _, detector, classifier = models
    done = run(classifier, detector, tmp_path / "model.tar.gz")
    assert done.returncode == 1
    assert "but they are for task=classification and task=detection" in done.stderr
    shutil.copytree(detector, tmp_path / "broken")
    (tmp_path / "broken" / "model.json").unlink()
    done = run(tmp_path / "broken", classifier, tmp_path / "model.tar.gz")
    assert done.returncode == 1 and "holds no model of Tilewise: model.json is missing" in done.stderr


def test_join__what_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.tar.gz").write_text("<html>")
    with tarfile.open(tmp_path / "cut.tar.gz", "w:gz") as archive:
        archive.add(SCRIPT)
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "cut.tar.gz").read_bytes()[:500])
    for name in ("page.tar.gz", "cut.tar.gz", "none.tar.gz"):
        done = run(tmp_path / name, tmp_path, tmp_path / "model.tar.gz")
        assert done.returncode == 1
        assert f"{name} cannot be unpacked, a model.tar.gz is expected: " in done.stderr
        assert "Traceback" not in done.stderr
