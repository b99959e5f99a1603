from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tilewise.data.channel import Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.models.build import build_detector
from tilewise.models.spec import DetectorSpec
from tilewise.targets import Targets
from tilewise.tiling.spec import Tiling
from tilewise.training.dataloading.loader import LoaderConfig, make_loader
from tilewise.training.dataloading.view_sampler import ViewPlanner
from tilewise.training.job.normalisation import NormalisationStatistics
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


def statistics(split: Split, memory: int) -> NormalisationStatistics:
    planner = ViewPlanner("grid", Tiling("grid", grid=(2, 2)), SCALING)
    config = LoaderConfig(scaling=SCALING, batch_size=4, memory=memory, random_windows=False)
    return NormalisationStatistics(make_loader(split, config, planner=planner), seed=0)


def test_refresh__where_few_images_fill_an_epochs_end(split: Split) -> None:
    spec = DetectorSpec("yolox_nano", 1, SCALING, None, 0.01, 0.5, 10)
    model = build_detector(spec).eval()
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    weights = {name: each.clone() for name, each in model.named_parameters()}
    momentum, before = first.momentum, first.running_mean
    assert before is not None
    before = before.clone()
    few, many = statistics(split, memory=4 * 3 * 64 * 64 * 4), statistics(split, memory=1 << 30)
    many.refresh(model, 0)
    assert many.views is not None or torch.equal(first.running_mean, before)  # type: ignore[arg-type]
    assert few.views is not None
    few.refresh(model, 0)
    once = first.running_mean.clone()  # type: ignore[union-attr]
    assert not torch.equal(once, before) and first.momentum == momentum and not model.training
    few.refresh(model, 0)
    assert torch.equal(first.running_mean, once)  # type: ignore[arg-type]
    few.refresh(model, 1)
    assert not torch.equal(first.running_mean, once)  # type: ignore[arg-type]
    assert all(torch.equal(weights[name], each) for name, each in model.named_parameters())
