from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.tuning.automatic import UNKNOWN, DataFacts, automatic_space, look_at
from tilewise.tuning.space import Categories, SubSpace

TASKS = ("detection", "instance_segmentation", "classification", "multilabel_classification")
SMALL = DataFacts(images=100, image_side=2000, object_side=20, gpu=True)


def corners(space: SubSpace) -> list[dict[str, str]]:
    """Trials with each combination of the ends of all ranges."""
    ends = [
        each.values if isinstance(each, Categories) else (each.text(each.low), each.text(each.high))
        for each in space.ranges.values()
    ]
    return [dict(space.fixed) | dict(zip(space.ranges, values, strict=True)) for values in product(*ends)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("facts", [UNKNOWN, SMALL, DataFacts(5000, 700, 100, gpu=False)], ids=str)
def test_every_trial__is_a_job(task: str, facts: DataFacts) -> None:
    for space in automatic_space(task, facts):
        assert space.ranges
        for trial in corners(space):
            assert parse_hyperparameters({"task": task} | trial).task == task


def grids(facts: DataFacts) -> set[str]:
    found = automatic_space("detection", facts)[0].ranges.get("tile_grid_size")
    return set(found.values) if isinstance(found, Categories) else set()


def test_tiles__by_the_zoom_that_objects_need() -> None:
    assert grids(SMALL) == {"2x1", "3x2", "5x3", "auto"}
    assert grids(DataFacts(100, 1000, 40, gpu=True)) == {"2x1", "auto"}
    assert grids(DataFacts(100, 640, 60, gpu=True)) == set()
    assert grids(UNKNOWN) == {"none", "2x1", "3x2", "5x3"}


def test_model_given__is_the_only_one() -> None:
    for model in ("yolox_nano", "fasterrcnn_resnet18_fpn"):
        (space,) = automatic_space("detection", SMALL, model)
        assert space.fixed["model_name"] == model
        for trial in corners(space):
            parse_hyperparameters(trial)


def test_look_at__sizes_of_images_and_objects(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.zeros((100, 400, 3), np.uint8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("0 0.5 0.5 0.1 0.1\n")  # 40 x 10 px
    seen = look_at(tmp_path, task="detection", gpu=False)
    assert (seen.images, seen.image_side, seen.gpu) == (2, 200, False)
    assert seen.object_side == pytest.approx(20)
    assert look_at(tmp_path, task="classification", gpu=False).object_side is None
