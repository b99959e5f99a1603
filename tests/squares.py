"""Images of bright squares on dark noise: a data set that is made in no time, and learnt in little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tilewise.data.channel import Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.targets import Targets


def squares_split(folder: Path, channel: str, side: int, images: int, seed: int = 0) -> Split:
    """Images of ``side`` pixels, written to ``folder``: up to three squares in each, none in every fourth."""
    rng = np.random.default_rng(seed)
    cell = side * 5 // 16
    records = []
    for index in range(images):
        pixels = rng.integers(80, size=(side, side, 3), dtype=np.uint8)
        cells = rng.permutation(9)[: index % 4]
        corners = np.stack([cells % 3, cells // 3], axis=1) * cell
        boxes = np.concatenate([corners, corners + cell * 2 // 3], axis=1)
        for left, top, right, bottom in boxes.tolist():
            pixels[top:bottom, left:right] = 255
        path = folder / f"{channel}-{index}.png"
        Image.fromarray(pixels).save(path)
        labels, ignored = np.zeros(len(boxes), np.int64), np.zeros(len(boxes), np.bool_)
        records.append(
            Record(path.name, path, side, side, Targets(boxes.astype(np.float32), labels, ignored))
        )
    return Split(Records(records), ChannelIssues(channel, images=images))
