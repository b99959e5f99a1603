"""Which boxes of a class lie near each other, without comparing all with all."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tilewise.arrays import Bool, Float64, Int64
from tilewise.boxes import sides

CHUNK = 200_000
"""So many pairs are looked at together: what that needs of memory stays below some 30 MB."""
_FINE = 64
_ROWS = 3


def near_pairs(
    boxes_N4: Float64, labels_N: Int64, threshold: float, *, reaching_N: Bool, chunk: int = CHUNK
) -> Iterator[tuple[Int64, Int64]]:
    """All pairs of boxes of one class that may have an IoU above ``threshold``, and some that have not.

    The boxes lie in a pyramid of cells, each in the level whose cells are just larger than it is: two that
    overlap are neighbours in the coarser of their levels.

    Args:
        boxes_N4: ``xmin, ymin, xmax, ymax``.
        labels_N: classes.
        threshold: at least 0.
        reaching_N: boxes that are also paired with each larger box that may hold more than half of them.
        chunk: about so many pairs at a time.

    Yields:
        Chunks of index pairs; each pair comes once, in any order.

    """
    sides_N2 = sides(boxes_N4)
    level_of = np.ceil(np.log2(sides_N2.max(axis=1, initial=1.0).clip(min=1.0))).astype(np.int64)
    levels = np.unique(level_of).tolist()
    # IoU <= ratio of the sides, so boxes of levels further apart do not reach the threshold
    apart = max(2, math.ceil(-math.log2(threshold)) + 1) if threshold > 0 else levels[-1] if levels else 0
    for target in levels:
        cells = _Cells(boxes_N4, labels_N, np.flatnonzero(level_of == target), side=2.0**target)
        for level in levels:
            if level > target:
                break
            at_level = level_of == level
            if target - level > apart:
                at_level &= reaching_N
            indices = np.flatnonzero(at_level)
            spare = cells.side * max(0.0, 0.5 - threshold)
            reach = sides_N2[indices] / 2 + spare
            reach[reaching_N[indices]] = np.maximum(reach[reaching_N[indices]], cells.side / 2)
            for first, second in cells.near(indices, reach, chunk=chunk):
                once = first < second if level == target else first != second
                yield first[once], second[once]


class _Cells:
    """Boxes of one level, sorted by class, row of cells, and x."""

    def __init__(self, boxes_N4: Float64, labels_N: Int64, members: Int64, *, side: float):
        self.side = side
        self.labels = labels_N
        self.centres = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
        self.origin = self.centres.min(axis=0)
        span = np.ceil((self.centres.max(axis=0) - self.origin) / side).astype(np.int64)
        self.columns, self.rows = int(span[0] + 1) * _FINE, int(span[1] + 1)
        keys = self._key(members, self._row(self.centres[members, 1]), self._column(self.centres[members, 0]))
        order = np.argsort(keys, kind="stable")
        self.keys, self.members = keys[order], members[order]

    def near(self, indices: Int64, reach: Float64, *, chunk: int) -> Iterator[tuple[Int64, Int64]]:
        """Pairs of ``indices`` and members whose centres are at most ``reach`` away, or a little more."""
        x, y = self.centres[indices].T
        top, bottom = self._row(y - reach[:, 1]), self._row(y + reach[:, 1])
        left, right = self._column(x - reach[:, 0]), self._column(x + reach[:, 0])
        for offset in range(_ROWS + 1):
            row = top + offset
            there = np.flatnonzero(row <= bottom)
            in_row = indices[there]
            start = np.searchsorted(self.keys, self._key(in_row, row[there], left[there]), "left")
            end = np.searchsorted(self.keys, self._key(in_row, row[there], right[there]), "right")
            for first, positions in _expand(start, end, chunk):
                yield in_row[first], self.members[positions]

    def _row(self, y: Float64) -> Int64:
        row: Int64 = np.floor((y - self.origin[1]) / self.side).astype(np.int64).clip(0, self.rows - 1)
        return row

    def _column(self, x: Float64) -> Int64:
        column: Int64 = np.floor((x - self.origin[0]) * (_FINE / self.side)).astype(np.int64)
        column = column.clip(0, self.columns - 1)
        return column

    def _key(self, indices: Int64, row: Int64, column: Int64) -> Int64:
        key: Int64 = (self.labels[indices] * self.rows + row) * self.columns + column
        return key


def _expand(start: Int64, end: Int64, chunk: int) -> Iterator[tuple[Int64, Int64]]:
    """Ranges -> chunks of (index of the range, number in it)."""
    counts = end - start
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + chunk, "right")))
        some = counts[first:last]
        owner = np.repeat(np.arange(first, last), some)
        begins = np.repeat(start[first:last] - (ends[first:last] - some - before), some)
        yield owner, begins + np.arange(len(owner))
        first = last
