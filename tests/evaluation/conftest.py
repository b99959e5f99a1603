from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made_instances import make_instances
from tilewise.data.records import Record, Records
from tilewise.evaluation.analysis import Scored
from tilewise.targets import Targets


def _random_scored(seed: int, images: int = 15) -> Scored:
    """Objects of all sizes and two classes, some crowds; detections of three classes beside them."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for _ in range(images):
        count = int(rng.integers(9))
        corners = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corners, corners + rng.choice([6, 12, 25, 60, 130], (count, 1))], axis=1)
        labels = rng.integers(2, size=count)
        ignored = rng.random(count) < 0.15
        record = Record("image", Path("image"), 640, 480, Targets(boxes.astype(np.float32), labels, ignored))
        records.append(record)
        near = torch.from_numpy(np.repeat(boxes, 3, axis=0) + rng.normal(0, 0.6, (3 * count, 4))).float()
        scores = torch.from_numpy(np.sort(rng.random(len(near)))[::-1].copy()).float()
        found = np.where(rng.random(len(near)) < 0.8, np.repeat(labels, 3), rng.integers(3, size=len(near)))
        order = torch.from_numpy(rng.permutation(len(near)))
        detections.append(make_instances(near[order], scores, torch.from_numpy(found)[order]))
    return Scored(Records(records), detections)


@pytest.fixture
def random_scored() -> Callable[[int], Scored]:
    """Makes such a case from a seed."""
    return _random_scored
