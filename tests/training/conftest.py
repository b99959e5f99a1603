from __future__ import annotations

from pathlib import Path

import pytest
from small_training import SIDE
from squares import squares_split
from tilewise.data.channel import DataSet


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    folder = tmp_path / "images"
    folder.mkdir()
    images = squares_split(folder, "train", SIDE, 8)
    return DataSet(("dot",), images, squares_split(folder, "validation", SIDE, 4, seed=1))


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return folder
