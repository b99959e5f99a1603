from __future__ import annotations

import numpy as np
import pytest
import torch
from tilewise.arrays import Array
from tilewise.suppression import BLOCK, Limits, suppress
from torchvision.ops import batched_nms


@pytest.mark.parametrize("count", [0, 1, BLOCK, 900])
@pytest.mark.parametrize("detections", [20, 1000])
@pytest.mark.parametrize("span", [60, 400, 4000])
def test_suppress__is_torchvisions_batched_nms(count: int, detections: int, span: int) -> None:
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, span, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 60, (count, 2))], axis=1).astype(np.float32)
    scores, labels = rng.random(count, dtype=np.float32), rng.integers(0, 7, count)
    found = suppress(boxes, scores, labels, limits=Limits(0.2, 0.5, 0, detections))
    passed = np.flatnonzero(scores > 0.2)
    tensors = [torch.from_numpy(each[passed]) for each in (boxes, scores, labels)]
    kept = passed[batched_nms(*tensors, 0.5).numpy()[:detections]]
    pairs: list[tuple[Array, Array]] = [(found.boxes, boxes), (found.scores, scores), (found.labels, labels)]
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs[kept])


def test_suppress__classes_do_not_touch_each_other_and_equal_scores_keep_their_order() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 4, np.float32)
    scores, labels = np.array([0.5, 0.5, 0.5, 0.9], np.float32), np.array([2, 0, 2, 1])
    found = suppress(boxes, scores, labels, limits=Limits(0.5 - 1e-6, 0.5, 0, 10))
    assert found.labels.tolist() == [1, 2, 0]


def test_suppress__a_chain() -> None:
    """The first removes the second, which therefore removes nothing."""
    left = np.arange(0, 100, 4, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    scores = np.linspace(0.9, 0.5, len(boxes)).astype(np.float32)
    found = suppress(boxes, scores, np.zeros(len(boxes), np.int64), limits=Limits(0.0, 0.4, 0, 100))
    assert found.boxes[:, 0].tolist() == left[::2].tolist()
