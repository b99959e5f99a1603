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
    centres = np.ascontiguousarray((boxes_N4[:, :2] + boxes_N4[:, 2:]).T / 2)
    members: dict[int, Int64] = {}  # of the levels so far, in the order of their cells: as searches are fast
    for target in levels:
        cells = _Cells(centres, labels_N, np.flatnonzero(level_of == target), side=2.0**target)
        members[target] = cells.members
        for level, indices in members.items():
            if target - level > apart:
                indices = indices[reaching_N[indices]]
            spare = cells.side * max(0.0, 0.5 - threshold)
            reach = sides_N2[indices] / 2 + spare
            reach[reaching_N[indices]] = np.maximum(reach[reaching_N[indices]], cells.side / 2)
            for first, second in cells.near(indices, reach, chunk=chunk):
                once = first < second if level == target else first != second
                yield first[once], second[once]


class _Cells:
    """Boxes of one level, sorted by class, row of cells, and x."""

    def __init__(self, centres_2N: Float64, labels_N: Int64, members: Int64, *, side: float):
        self.side = side
        self.labels, self.centres = labels_N, centres_2N
        self.origin = centres_2N.min(axis=1)
        span = np.ceil((centres_2N.max(axis=1) - self.origin) / side).astype(np.int64)
        self.columns, self.rows = int(span[0] + 1) * _FINE, int(span[1] + 1)
        x, y = centres_2N[:, members]
        keys = self._key(members, self._row(y), self._column(x))
        order = np.argsort(keys, kind="stable")
        self.keys, self.members = keys[order], members[order]

    def near(self, indices: Int64, reach: Float64, *, chunk: int) -> Iterator[tuple[Int64, Int64]]:
        """Pairs of ``indices`` and members whose centres are at most ``reach`` away, or a little more."""
        x, y = self.centres[:, indices]
        top, bottom = self._row(y - reach[:, 1]), self._row(y + reach[:, 1])
        left, right = self._column(x - reach[:, 0]), self._column(x + reach[:, 0])
        for offset in range(_ROWS + 1):
            there = np.flatnonzero(top + offset <= bottom)
            leftmost = self._key(indices[there], top[there] + offset, left[there])
            rightmost = leftmost + (right - left)[there]
            start = np.searchsorted(self.keys, leftmost, "left")
            some = np.flatnonzero(self.keys.take(start, mode="clip") <= rightmost)  # most have none
            end = np.searchsorted(self.keys, rightmost[some], "right")
            in_row = indices[there[some]]
            for first, positions in _expand(start[some], end, chunk):
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
