"""The benchmarks of views plan budgets with the trainer's own planner: they must keep up with it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewise.data.records import Record, Records
from tilewise.targets import Targets

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import runs  # noqa: E402
import tiled_training  # noqa: E402
from pixels import pixels_of_an_epoch  # noqa: E402

HYPERPARAMETERS = tiled_training.SSDLITE | {"image_size": "100", "training_batch_size": "2"}


@pytest.fixture
def records() -> Records:
    """Four images of 300 x 200 px, each with an object in its upper left corner."""
    boxes = np.array([[10, 10, 30, 30]], np.float32)
    return Records(
        [
            Record(
                key=f"{index}.png",
                path=Path(f"{index}.png"),
                width=300,
                height=200,
                targets=Targets(boxes, np.zeros(1, np.int64), np.zeros(1, np.bool_)),
            )
            for index in range(4)
        ]
    )


@pytest.mark.parametrize(
    ("chosen", "views"),
    [
        ({"training_views": "whole"}, 4),
        # the one tile with the object; Azure AutoML's way has the whole image, too
        ({"tile_grid_size": "3x2", "negative_views_ratio": "0"}, 4),
        ({"tile_grid_size": "3x2", "negative_views_ratio": "1"}, 8),
        ({"tile_grid_size": "3x2", "negative_views_ratio": "0", "tile_merge": "nms"}, 8),
    ],
)
def test_pixels_of_an_epoch__are_those_of_its_views(
    records: Records, chosen: dict[str, str], views: int
) -> None:
    assert pixels_of_an_epoch(records, HYPERPARAMETERS | chosen) == views * 100 * 100


def test_hyperparameters__fill_the_budget_with_whole_epochs(records: Records) -> None:
    raw = tiled_training.hyperparameters_of("whole", records, 0.42, {"image_size": "100"})
    assert raw["number_of_epochs"] == raw["evaluation_frequency"] == "10"  # 0.04 Mpx each


def test_train_seeds__runs_what_the_file_has_not(tmp_path: Path) -> None:
    trained: list[tuple[str, str]] = []

    def train_once(data: Path, raw: dict[str, str], *_: object, one_class: bool) -> dict[str, Any]:
        trained.append((raw["learning_rate"], raw["seed"]))
        return {"AP": float(len(trained))}

    parser = argparse.ArgumentParser()
    runs.add_arguments(parser)

    def figures(seeds: str, rate: str) -> dict[int, dict[str, Any]]:
        asked = parser.parse_args(["data", "--runs", str(tmp_path / "runs"), "--seeds", *seeds.split()])
        return runs.train_seeds(asked, {"learning_rate": rate}, train_once)

    assert figures("0 1", "0.1") == {0: {"AP": 1.0}, 1: {"AP": 2.0}}
    assert figures("1 2", "0.1") == {1: {"AP": 2.0}, 2: {"AP": 3.0}}
    assert figures("0", "0.2") == {0: {"AP": 4.0}}
    assert trained == [("0.1", "0"), ("0.1", "1"), ("0.1", "2"), ("0.2", "0")]
    assert len((tmp_path / "runs").read_text().splitlines()) == 4


def test_merge_classes__leaves_one(tmp_path: Path) -> None:
    path = tmp_path / "input" / "data" / "train" / "annotations.json"
    path.parent.mkdir(parents=True)
    annotations = [{"id": 1, "category_id": 7}, {"id": 2, "category_id": 3}]
    path.write_text(json.dumps({"categories": [{"id": 3}, {"id": 7}], "annotations": annotations}))
    runs._merge_classes(tmp_path)
    content = json.loads(path.read_text())
    assert [each["id"] for each in content["categories"]] == [1]
    assert [each["category_id"] for each in content["annotations"]] == [1, 1]
