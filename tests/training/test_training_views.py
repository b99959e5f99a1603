from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import StandIn, mean_colours, plain_hp, run
from squares import squares_split
from stand_ins import make_hp, make_job
from tilewise.augment.window import RandomWindow
from tilewise.data.channel import DataSet
from tilewise.training.train import make_trainer
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou


@pytest.mark.parametrize("given", [{}, {"tile_grid_size": "2x2"}, {"multi_scale": 1}])
def test_train__without_random_windows(data: DataSet, model_dir: Path, given: dict[str, object]) -> None:
    for wanted in (0, 1):
        trainer = make_trainer(data, make_job(plain_hp(random_windows=wanted, **given), model_dir))
        dataset: Any = trainer.loader.loader.dataset
        assert sum(isinstance(each, RandomWindow) for each in dataset.augmentations) == wanted


def test_views__sniper_asks_the_model_for_false_positives_once(
    data: DataSet, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hp = plain_hp(
        number_of_epochs=3,
        training_views="sniper",
        pyramid_scales="1,2",
        negative_views="false_alarms",
        box_score_threshold=0.01,
        validation_metric_type="none",
    )
    trainer = make_trainer(data, make_job(hp, model_dir))
    trainer.run()
    assert caplog.text.count("false alarms in 8 images") == 1
    planner = trainer.false_positives.planner
    assert planner is not None
    false_positives = planner.false_positives
    assert sorted(false_positives) == list(range(8))
    for index, boxes in false_positives.items():
        record = data.train.sample[index]
        assert boxes.shape[1] == 4 and len(boxes) > 0
        if len(record.targets.boxes):
            assert box_iou(torch.from_numpy(boxes), torch.from_numpy(record.targets.boxes)).max() <= 0.3


def test_views__no_false_positives_are_looked_for_where_whole_images_do(
    data: DataSet, model_dir: Path
) -> None:
    hp = plain_hp(
        number_of_epochs=2, training_views="sniper", pyramid_scales="1", negative_views="false_alarms"
    )
    assert len(run(data, hp, model_dir).epochs) == 2


def test_multi_scale__the_first_batch_is_the_largest(data: DataSet, model_dir: Path) -> None:
    seen: list[int] = []

    def noting(images: Sequence[Tensor]) -> ImageList:
        if detector.training:
            assert len({image.shape for image in images}) == 1
            seen.append(images[0].shape[-1])
        return mean_colours(images)

    detector = StandIn(transform=noting)
    run(data, plain_hp(multi_scale=1, number_of_epochs=6, training_batch_size=2), model_dir, detector)
    assert seen[0] == 128
    assert set(seen) <= {128, 96, 64} and len(set(seen)) > 1
    assert len(seen) == 24


@pytest.mark.parametrize(("minutes", "size", "views"), [(0.001, 16, "whole"), (60, None, "grid")])
def test_tiles_from_the_data__are_larger_where_the_minutes_are_few(
    tmp_path: Path, minutes: float, size: float | None, views: str
) -> None:
    """In the whole image the squares have 27 px of the view, in tiles 47."""
    data = DataSet(("dot",), squares_split(tmp_path, "train", 384, 8), None, None)
    hp = make_hp(model_name="yolox_nano", image_size=128, tile_grid_size="auto", minutes=minutes)
    trainer = make_trainer(data, make_job(hp, tmp_path))
    assert trainer.job.hp.smallest_object == size
    assert trainer.best.spec.tiling.kind == views
