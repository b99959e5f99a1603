"""Records of images that nobody opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tilewise.data.records import Record
from tilewise.targets import Targets


def make_record(boxes: list[list[float]], labels: list[int], ignored: list[int] | None = None) -> Record:
    return Record(
        key="image",
        path=Path("image"),
        width=640,
        height=480,
        targets=Targets(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array(ignored or [0] * len(labels), np.bool_),
        ),
    )
