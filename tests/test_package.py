"""The package as others use it: its public names, the wheel, the command, and the code of docs/python.md."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import tilewise
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "container" / "tilewise"


def python(*arguments: str, path: Path = ROOT / "container", cwd: Path | None = None) -> str:
    """What a Python process prints that finds modules in ``path``."""
    environ = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names__are_there() -> None:
    assert {*tilewise.__all__} == {*tilewise._MODULES, "__version__"}
    assert {*tilewise.__all__} <= {*dir(tilewise)}
    for name, module in tilewise._MODULES.items():
        assert getattr(tilewise, name).__module__ == f"tilewise.{module}"
    with pytest.raises(AttributeError, match="module 'tilewise' has no attribute 'Detector'"):
        _ = tilewise.Detector


def test_import__leaves_torch_alone() -> None:
    python(
        "-c",
        "import sys, tilewise; tilewise.TileOptions, tilewise.UserError; assert 'torch' not in sys.modules",
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what the checkout keeps."""
    if importlib.util.find_spec("setuptools") is None or int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools 77 or newer is not installed: bash local_test/setup.sh test")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "container" / "tilewise", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    name = python("-c", build, path=source, cwd=source).splitlines()[-1]
    return source / "dist" / name


def test_wheel__holds_every_file_of_the_package(wheel: Path) -> None:
    files = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"tilewise/py.typed", "tilewise/evaluation/report.html.j2"} <= files
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files


def test_wheel__gives_the_command(wheel: Path, tmp_path: Path) -> None:
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (facts,) = tmp_path.glob("*.dist-info")
    metadata = Parser().parsestr((facts / "METADATA").read_text(encoding="utf-8"))
    assert metadata["Version"] == tilewise.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert (facts / "entry_points.txt").read_text().split("\n")[:2] == [
        "[console_scripts]",
        "tilewise = tilewise.__main__:main",
    ]
    # as the script does that an installer makes of it, away from the checkout
    script = "import sys; from tilewise.__main__ import main; sys.exit(main())"
    assert python("-c", script, "--version", path=tmp_path, cwd=tmp_path) == f"{tilewise.__version__}\n"
    table = python("-c", script, "hyperparameters", path=tmp_path, cwd=tmp_path)
    assert table == (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8")


def test_docs__code_runs_as_it_stands(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    channel = tmp_path / "data" / "validation"
    channel.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(256, size=(90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    Image.fromarray(noise).save(channel / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 120, "height": 90}],
        "categories": [{"id": 7, "name": "bee"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 10, 50, 40], "area": 2000, "iscrowd": 0}
        ],
    }
    (channel / "annotations.json").write_text(json.dumps(coco))
    shutil.copytree(model_folder, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"(ant|bee) 0\.\d+ \[", lines[0])
    assert lines[-2] == "a.png 120 90 1"
    assert isinstance(names["validation"], tilewise.Channel)
    assert names["validation"].records[0].targets.labels.tolist() == [1]  # the model's classes count
    assert all(0 <= float(figure) <= 1 for figure in lines[-1].split())


def test_read_channel__classes_of_the_data_or_given(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    (folder / "a.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    own = tilewise.read_channel(folder)
    assert (own.classes, own.issues.channel) == (("0", "1"), "cells")
    np.testing.assert_allclose(own.records[0].targets.boxes, [[16, 12, 24, 18]], rtol=1e-5)
    assert tilewise.read_channel(str(folder), classes=["ant", "bee"]).classes == ("ant", "bee")
    with pytest.raises(tilewise.UserError, match=r"a\.(txt|png) has class_id 1, but num_classes is 1"):
        tilewise.read_channel(folder, classes=["ant"])
    with pytest.raises(tilewise.UserError, match="the folder of channel none is not there"):
        tilewise.read_channel(tmp_path / "none")
