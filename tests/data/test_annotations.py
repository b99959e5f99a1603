from __future__ import annotations

import numpy as np
from tilewise.data.annotations import boxes_from_corner_and_size

NAN, INF = float("nan"), float("inf")


def test_boxes_from_corner_and_size__adds() -> None:
    boxes = boxes_from_corner_and_size([[1, 2, 3, 4], [0.5, 0, 10, 0.25]])
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[1, 2, 4, 6], [0.5, 0, 10.5, 0.25]]
    assert boxes_from_corner_and_size([]).shape == (0, 4)


def test_boxes_from_corner_and_size__what_is_not_finite() -> None:
    boxes = boxes_from_corner_and_size([[1e300, 0, 1e300, 1], [-INF, 0, INF, 1], [NAN, 0, 1, 1]])
    assert not np.isfinite(boxes).all(axis=1).any()
