"""Which images of a channel show best what is in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tilewise.arrays import Int64
from tilewise.data.records import Records

ASPECT = 4 / 3
"""Width to height of a tile."""

_OBJECT_SHARE = 0.12  # how much of a close-up's width its smallest object takes
_MIN_WINDOW = 48  # pixels; fewer are only blocks


@dataclass(frozen=True)
class Tile:
    """One image to show.

    Attributes:
        index: of the record.
        why: what it stands for.
        window: ``x0, y0, x1, y1`` in whole pixels: the part of it to show.

    """

    index: int
    why: str
    window: tuple[int, int, int, int]


def choose_tiles(records: Records, count: int, seed: int) -> list[Tile]:
    """Up to ``count`` images: the fullest, close-ups of the smallest objects, empty ones, and random ones.

    No image is shown twice, but a small channel's close-ups leave it for the other kinds.
    """
    share = max(1, count // 4)
    counts = records.object_counts
    fullest = np.argsort(-counts, kind="stable")[: min(share, int((counts > 0).sum()))].tolist()
    smallest, objects = _smallest(records)
    tiles = [Tile(index, f"{counts[index]} objects", _whole(records, index)) for index in fullest]
    rest = [index for index in smallest if index not in fullest][:share]
    tiles += [
        Tile(index, "close-up of the smallest", _close_up(records, index, objects[index])) for index in rest
    ]
    pictured = {tile.index for tile in tiles}
    generator = np.random.default_rng(seed)
    order = [index for index in generator.permutation(len(records)).tolist() if index not in pictured]
    empty = [index for index in order if not counts[index]][: max(1, share // 2)]
    order = [*empty, *(index for index in order if index not in empty)][: count - len(tiles)]
    return tiles + [
        Tile(index, "no objects" if not counts[index] else f"{counts[index]} objects, at random", whole)
        for index in order
        for whole in [_whole(records, index)]
    ]


def _whole(records: Records, index: int) -> tuple[int, int, int, int]:
    width, height = records.sizes[index].tolist()
    return 0, 0, width, height


def _smallest(records: Records) -> tuple[list[int], Int64]:
    """Records by the size of their smallest object, and (R,) which of all objects that is; -1 for none."""
    counts = records.object_counts
    owner = np.repeat(np.arange(len(counts)), counts)
    order = np.argsort(records.object_sizes, kind="stable")
    owners, first = np.unique(owner[order], return_index=True)
    objects = np.full(len(counts), -1, np.int64)
    objects[owners] = order[first]
    return owners[np.argsort(first)].tolist(), objects


def _close_up(records: Records, index: int, number: int) -> tuple[int, int, int, int]:
    """A window around an object, in which the object is well seen."""
    x0, y0, x1, y1 = records.targets.boxes[number].tolist()
    width, height = records.sizes[index].tolist()
    wide = max(_MIN_WINDOW, (x1 - x0) / _OBJECT_SHARE, (y1 - y0) * ASPECT / _OBJECT_SHARE)
    if wide >= width or wide / ASPECT >= height:
        return 0, 0, width, height
    wide, high = round(wide), round(wide / ASPECT)
    left = round(min(max((x0 + x1 - wide) / 2, 0), width - wide))
    top = round(min(max((y0 + y1 - high) / 2, 0), height - high))
    return left, top, left + wide, top + high
