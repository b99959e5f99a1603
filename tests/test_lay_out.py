from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LOCAL_TEST = Path(__file__).resolve().parents[1] / "local_test"
sys.path.insert(0, str(LOCAL_TEST))

from lay_out import find_coco_files, lay_out_channel, lay_out_job  # noqa: E402

COCO: dict[str, Any] = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}


def write(path: Path, content: Any = COCO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of two images."""
    folder = tmp_path / "data"
    write(folder / "train.json")
    write(folder / "val.json", {**COCO, "images": [{"id": 2, "file_name": "deep/b.jpg"}]})
    write(folder / "images" / "a.jpg", b"image a")
    write(folder / "images" / "deep" / "b.jpg", b"image b")
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [
        (["train.json", "val.json"], "train.json", "val.json"),
        (
            ["annotations/train.json", "annotations/val.json"],
            "annotations/train.json",
            "annotations/val.json",
        ),
        (["instances_train.json", "instances_val.json"], "instances_train.json", "instances_val.json"),
        (["_annotations.coco.json"], "_annotations.coco.json", None),
        (["whatever.json"], "whatever.json", None),
        (["whatever.json", "valid.json"], "whatever.json", "valid.json"),
        (["train.json", "other.json", "third.json"], "train.json", None),
    ],
)
def test_find_coco_files__by_name(
    tmp_path: Path, names: list[str], train: str, validation: str | None
) -> None:
    for name in names:
        write(tmp_path / name)
    assert find_coco_files(tmp_path) == (tmp_path / train, tmp_path / validation if validation else None)


@pytest.mark.parametrize("names", [[], ["val.json"], ["a.json", "b.json"], ["images/train.json"]])
def test_find_coco_files__none_for_training(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"holds no train\.json"):
        find_coco_files(tmp_path)


def test_lay_out_job__looks_like_opt_ml(data: Path, tmp_path: Path) -> None:
    base = tmp_path / "opt" / "ml"
    lay_out_job(data, base, {"epochs": "3"})
    assert files(base) == {
        "input/config/hyperparameters.json",
        "input/config/inputdataconfig.json",
        "input/config/resourceconfig.json",
        "input/data/train/annotations.json",
        "input/data/train/images/a.jpg",
        "input/data/validation/annotations.json",
        "input/data/validation/images/deep/b.jpg",
    }
    config = {path.stem: json.loads(path.read_text()) for path in (base / "input" / "config").iterdir()}
    assert config["hyperparameters"] == {"epochs": "3"}
    assert set(config["inputdataconfig"]) == {"train", "validation"}
    assert config["inputdataconfig"]["train"]["TrainingInputMode"] == "File"
    assert config["resourceconfig"]["hosts"] == [config["resourceconfig"]["current_host"]] == ["algo-1"]
    assert (base / "model").is_dir() and (base / "output" / "data").is_dir()
    assert (base / "input" / "data" / "train" / "images" / "a.jpg").read_bytes() == b"image a"


def test_lay_out_job__anew_over_an_earlier_one(data: Path, tmp_path: Path) -> None:
    base = tmp_path / "ml"
    lay_out_job(data, base, {})
    write(base / "model" / "model.json")
    lay_out_job(data, base, {})
    assert "model/model.json" not in files(base)


def test_lay_out_job__missing_images_are_left_to_the_job(data: Path, tmp_path: Path) -> None:
    (data / "images" / "a.jpg").unlink()
    lay_out_job(data, tmp_path / "ml", {})
    assert "input/data/train/annotations.json" in files(tmp_path / "ml")


def test_lay_out_job__images_beside_the_json(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.json")
    write(tmp_path / "data" / "a.jpg", b"image a")
    lay_out_job(tmp_path / "data", tmp_path / "ml", {})
    assert "input/data/train/images/a.jpg" in files(tmp_path / "ml")
    assert not (tmp_path / "ml" / "input" / "data" / "validation").exists()


@pytest.mark.parametrize("name", ["../../a.jpg", "../annotations.json", "/etc/hostname", "x/../../../a.jpg"])
def test_lay_out_channel__file_name_that_leads_out(data: Path, tmp_path: Path, name: str) -> None:
    annotations = write(tmp_path / "bad.json", {**COCO, "images": [{"id": 1, "file_name": name}]})
    with pytest.raises(ValueError, match=r"bad\.json: file_name '.*' leads out of the folder"):
        lay_out_channel(annotations, data, tmp_path / "ml" / "train")
    assert files(tmp_path / "ml") == {"train/annotations.json"}


@pytest.mark.parametrize("base", ["data", ".", "data/../data"])
def test_lay_out_job__never_removes_the_data(data: Path, tmp_path: Path, base: str) -> None:
    before = files(tmp_path)
    with pytest.raises(ValueError, match="holds the data itself"):
        lay_out_job(data, tmp_path / base, {})
    assert files(tmp_path) == before


def test_lay_out_job__never_removes_something_else(data: Path, tmp_path: Path) -> None:
    write(tmp_path / "home" / "thesis.txt", b"years of work")
    with pytest.raises(ValueError, match="holds files that are not a job's"):
        lay_out_job(data, tmp_path / "home", {})
    assert files(tmp_path / "home") == {"thesis.txt"}
    (tmp_path / "empty").mkdir()
    lay_out_job(data, tmp_path / "empty", {})


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LOCAL_TEST / "lay_out.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_command__hyperparameters(data: Path, tmp_path: Path) -> None:
    done = run(data, tmp_path / "ml", "epochs=3", "lr_scheduler_step=10,20", "note=a=b", "empty=")
    assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "ml" / "input" / "config" / "hyperparameters.json"
    assert json.loads(file.read_text()) == {
        "epochs": "3",
        "lr_scheduler_step": "10,20",
        "note": "a=b",
        "empty": "",
    }


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "JSONDecodeError"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError('images')"),
        (b"\xff", "UnicodeDecodeError"),
    ],
)
def test_command__wrong_coco_file(tmp_path: Path, content: bytes, problem: str) -> None:
    write(tmp_path / "data" / "train.json", content)
    done = run(tmp_path / "data", tmp_path / "ml")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"lay_out.py: train.json is not COCO JSON: {problem}")


def test_command__what_is_no_pair(data: Path, tmp_path: Path) -> None:
    done = run(data, tmp_path / "ml", "epochs")
    assert done.returncode == 2 and "'epochs' is not name=value" in done.stderr
    assert not (tmp_path / "ml").exists()


def test_real_data__every_image_is_laid_out(shared_data: Path, tmp_path: Path) -> None:
    lay_out_job(shared_data / "hemocytometer", tmp_path / "ml", {})
    for channel in ("train", "validation"):
        folder = tmp_path / "ml" / "input" / "data" / channel
        named = {
            f"images/{row['file_name']}"
            for row in json.loads((folder / "annotations.json").read_text())["images"]
        }
        assert files(folder) == named | {"annotations.json"}


def test_job__of_folders_in_any_form(tmp_path: Path) -> None:
    for name in ("train/labels/a.txt", "train/images/a.jpg", "valid/labels/b.txt", "other/c.jpg"):
        write(tmp_path / "data" / name, b"x")
    lay_out_job(tmp_path / "data", tmp_path / "job", {})
    inputs = tmp_path / "job" / "input"
    assert files(inputs / "data") == {"train/labels/a.txt", "train/images/a.jpg", "validation/labels/b.txt"}
    assert [*json.loads((inputs / "config" / "inputdataconfig.json").read_text())] == ["train", "validation"]
