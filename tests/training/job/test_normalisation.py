from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import make_hp, make_job
from tilewise.augment.augmentations import Augmentations
from tilewise.data.channel import DataSet, Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.models.build import build_detector
from tilewise.models.spec import DetectorSpec
from tilewise.targets import Targets
from tilewise.tiling.spec import Tiling
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.loader import LoaderConfig, make_loader
from tilewise.training.dataloading.view_order import index_of
from tilewise.training.dataloading.view_sampler import ViewPlanner, ViewSampler
from tilewise.training.job import normalisation
from tilewise.training.job.normalisation import NormalisationStatistics, _by_image
from tilewise.training.train import train
from tilewise.views.sample import Sample
from tilewise.views.view import Scaling
from torch import nn

SCALING = Scaling(square=32)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Images of 64 x 64 pixels, each of one grey."""
    none = Targets.none()
    records = []
    for grey in range(0, 250, 10):
        path = tmp_path / f"{grey}.png"
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(path)
        boxes = np.array([[4, 4, 40, 40]], np.float32)
        targets = replace(none, boxes=boxes, labels=np.zeros(1, np.int64), ignored=np.zeros(1, np.bool_))
        records.append(Record(path.name, path, 64, 64, targets))
    return Split(Records(records), ChannelIssues("train", images=len(records)))


def statistics(split: Split, *, tiles: bool = True, **chosen: Any) -> NormalisationStatistics:
    planner = ViewPlanner("grid", Tiling("grid", grid=(2, 2)), SCALING) if tiles else None
    config = LoaderConfig(scaling=SCALING, batch_size=4, random_windows=False, **chosen)
    return NormalisationStatistics(make_loader(split, config, planner=planner), seed=0)


@pytest.mark.parametrize("tiles", [True, False])
def test_refresh__statistics_are_of_random_views_and_nothing_else_changes(split: Split, tiles: bool) -> None:
    spec = DetectorSpec("yolox_nano", 1, SCALING, None, 0.01, 0.5, 10)
    model = build_detector(spec).eval()
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    weights = {name: each.clone() for name, each in model.named_parameters()}
    momentum, mean = first.momentum, first.running_mean
    assert mean is not None
    before = mean.clone()
    made = statistics(split, tiles=tiles)
    made.refresh(model, 0)
    once = mean.clone()
    assert not torch.equal(once, before) and first.momentum == momentum and not model.training
    made.refresh(model, 0)
    assert torch.equal(mean, once)
    made.refresh(model, 1)  # of other views
    assert not torch.equal(mean, once)
    assert all(torch.equal(weights[name], each) for name, each in model.named_parameters())


def test_refresh__an_average_of_weights_gets_statistics_of_its_own(split: Split) -> None:
    """Of weights that changed, running statistics say little; of the batches that they see, they fit."""
    spec = DetectorSpec("yolox_nano", 1, SCALING, None, 0.01, 0.5, 10)
    model = build_detector(spec).eval()
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    convolution = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    made = statistics(split, tiles=False)
    made.refresh(model, 0)
    assert first.running_var is not None
    before = first.running_var.clone()
    with torch.no_grad():
        convolution.weight.mul_(2)
    made.refresh(model, 0)
    torch.testing.assert_close(first.running_var, 4 * before)


def batches_of(split: Split, **chosen: Any) -> list[Batch]:
    made = statistics(split, **chosen)
    assert made.sampler is not None
    return made._batches(made.sampler, 0)


def test_refresh__its_views_have_the_size_of_validations(split: Split) -> None:
    batches = batches_of(split, factors=[1.5, 1.0, 0.5])
    sizes = {tuple(sample.pixels.shape) for batch in batches for sample in batch.samples(torch.device("cpu"))}
    assert sizes == {(3, 32, 32)}


def test_refresh__its_views_are_no_mosaics(split: Split) -> None:
    """The images are of one grey each."""
    batches = batches_of(split, augmentations=Augmentations(mosaic=1.0, colours=False), plain_from=1)
    samples = [sample for batch in batches for sample in batch.samples(torch.device("cpu"))]
    assert samples and all(sample.pixels.unique().numel() == 1 for sample in samples)


def test_refresh__comes_image_by_image_so_that_each_is_decoded_once(split: Split) -> None:
    sampler = statistics(split).sampler
    assert isinstance(sampler, ViewSampler)
    groups = list(_by_image(sampler.first, 64, np.random.default_rng(0)))
    images = [{index_of(image) for image, _, _ in items} for items in groups]
    assert all(len(each) == 1 for each in images) and len(set.union(*images)) == len(groups)
    assert sum(map(len, groups)) >= 64 and max(map(len, groups)) == 3


def kept_of_a_pipe(split: Split, count: int) -> NormalisationStatistics:
    """Of so many batches of four views, each of one grey, from 0 on."""
    made = statistics(split)
    made.sampler = None
    for number in range(1, count + 1):
        view = torch.full((3, 32, 32), (number - 1) % 256, dtype=torch.uint8)
        made.keep(Batch.of([Sample(view, Targets.none().to("cpu"))] * 4), 0, number)
    return made


def greys(made: NormalisationStatistics) -> list[int]:
    return [int(batch.pixels[0]) for batch in made._kept]


def test_keep__random_batches_of_a_pipe_as_many_as_memory_allows(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalisation, "KEPT_PIXELS", 10 * 4 * 32 * 32)
    assert greys(kept_of_a_pipe(split, 7)) == [*range(7)]
    found = greys(kept_of_a_pipe(split, 250))
    assert len(set(found)) == 10
    assert max(found) > 125 and min(found) < 125  # neither the first nor the last ones alone
    assert found == greys(kept_of_a_pipe(split, 250))


def test_keep__four_batches_at_least_of_large_views_and_none_of_files(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalisation, "KEPT_PIXELS", 1)
    assert len(greys(kept_of_a_pipe(split, 20))) == 4
    made = statistics(split)
    made.keep(Batch.of([Sample(torch.zeros(3, 32, 32, dtype=torch.uint8), Targets.none().to("cpu"))]), 0, 1)
    assert not made._kept


def test_keep__a_checkpoint_has_what_was_kept(split: Split) -> None:
    spec = DetectorSpec("yolox_nano", 1, SCALING, None, 0.01, 0.5, 10)
    model = build_detector(spec).eval()
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert first.running_mean is not None
    made = kept_of_a_pipe(split, 9)
    made.refresh(model, 0)
    mean = first.running_mean.clone()
    resumed = statistics(split)
    resumed.sampler = None
    resumed.load_state_dict(made.state_dict())
    first.running_mean.zero_()
    resumed.refresh(model, 0)
    assert torch.equal(first.running_mean, mean)
    made.forget()
    assert not made.state_dict()


def test_train__a_job_without_validation_keeps_such_statistics_too(
    split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hp = make_hp(
        model_name="yolox_nano",
        image_size=32,
        number_of_epochs=1,
        tile_grid_size="2x2",
        training_batch_size=4,
    )
    caplog.set_level(logging.INFO)
    train(DataSet(("grey",), split, None), make_job(hp, tmp_path))
    assert "statistics of normalisation are computed anew, of 4 random batches" in caplog.text
