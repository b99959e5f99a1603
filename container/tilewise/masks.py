"""Masks of objects: packed outlines and run lengths, rasterised in small grids where a view asks for them.

Pixels are COCO's: an outline is rasterised by pycocotools, after it has been scaled.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tilewise.arrays import Array, Bool, Float32, Float64, Int64
from tilewise.bitmaps import Bitmaps, pulled
from tilewise.fields import Corners, Index
from tilewise.rasters import (
    Bitmap,
    RunLengthsOfImage,
    decode_runs,
    encode,
    part_of_runs,
    rasterise,
    runs_of,
)

if TYPE_CHECKING:
    import torch

MASKS = "masks"
"""The name of the field, of targets and of instances."""

GRID_SIDE = 112
"""The most cells of a side that an object of a view is rasterised in: four for each of a 28 x 28 mask."""

_UNION, _EVEN_ODD, _RUNS = 1, 2, 3
_MOST_PIXELS = 8
"""Where a view shows a mask smaller, so many pixels along each side of a cell are looked at."""

_NARROW = 2.0
"""Pixels of a side, or of an area, below which a mask may cover no pixel's centre."""


class Outline(NamedTuple):
    """A mask as polygons.

    Attributes:
        rings: of each one (P, 2) x and y, three points or more.
        even_odd: whether a place inside of two rings is outside, as Azure AutoML has it; else it is inside,
            as COCO has it.

    """

    rings: Sequence[Array]
    even_odd: bool = False


class RunLengths(NamedTuple):
    """A mask as COCO's run lengths: down the columns, first of what is outside of it.

    Attributes:
        width, height: of the frame that the runs fill.
        counts: (R,) how many pixels each run has.
        left, top: where that frame begins.

    """

    width: int
    height: int
    counts: Array
    left: int = 0
    top: int = 0


Shape = Outline | RunLengths


class MaskPacker:
    """Packs masks one by one: a million of them as objects would take a gigabyte."""

    def __init__(self) -> None:
        self._data, self._ends = array("i"), array("q", [0])
        self._boxes, self._corners, self._limits = array("f"), array("d"), array("f")

    def add(self, shape: Shape | None) -> None:
        """The mask of the next object; None for an object without one."""
        left = top = 0
        box: Sequence[float] = (0, 0, 0, 0)
        limits = (np.inf, np.inf)
        if isinstance(shape, RunLengths):
            limits = float(shape.left + shape.width), float(shape.top + shape.height)
            bitmap, left, top = part_of_runs(shape.width, shape.height, shape.counts)
            left, top, (height, width) = left + shape.left, top + shape.top, bitmap.shape
            box = (0, 0, width, height)
            self._data.extend((_RUNS, width, height))
            self._data.frombytes(runs_of(bitmap).astype(np.int32).tobytes())
        elif shape is not None:
            points = np.concatenate(shape.rings).astype(np.float32)
            box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
            kind = _EVEN_ODD if shape.even_odd and len(shape.rings) > 1 else _UNION
            self._data.extend((kind, len(shape.rings), *map(len, shape.rings)))
            self._data.frombytes(points.tobytes())
        self._ends.append(len(self._data))
        self._boxes.extend(box)
        self._corners.extend((left, top))
        self._limits.extend(limits)

    def masks(self) -> Masks:
        """Of all objects so far."""
        count = len(self._ends) - 1
        ends = np.asarray(self._ends, np.int64)
        corners = np.asarray(self._corners, np.float64).reshape(-1, 2)
        return Masks(
            data=np.asarray(self._data, np.int32),
            spans=np.stack([ends[:-1], ends[1:]], axis=1),
            extents=np.asarray(self._boxes, np.float32).reshape(-1, 4),
            placement=np.concatenate([np.ones((count, 2)), corners], axis=1),
            limits=np.asarray(self._limits, np.float32).reshape(-1, 2),
        )


@dataclass(frozen=True)
class Masks:
    """The masks of N objects as they came, in flat arrays, and where each lies in the present frame.

    To choose, move, mirror and scale them costs some numbers an object, and no point or run is touched: what
    :meth:`select` returns shares their memory. :meth:`to` rasterises.

    Attributes:
        data: (B,) int32: what kind each is, its counts, and its points (the bits of float32) or runs.
        spans: (N, 2) int64, where each one's data begin and end; empty for an object without a mask.
        extents: (N, 4) float32, the box around each, before it is placed.
        placement: (N, 4) float64: scales along x and y, negative where mirrored, and shifts.
        limits: (N, 2) float32, width and height of the present frame, which shows no more of them; infinite
            for outlines of which nobody has said it.

    """

    data: Array
    spans: Int64
    extents: Float32
    placement: Float64
    limits: Float32

    def __len__(self) -> int:
        return len(self.spans)

    @staticmethod
    def none(count: int) -> Masks:
        """Of so many objects without one."""
        zeros = np.zeros((count, 4), np.float32)
        return Masks(
            np.zeros(0, np.int32),
            np.zeros((count, 2), np.int64),
            zeros,
            zeros + np.array([1.0, 1.0, 0.0, 0.0]),
            np.full((count, 2), np.inf, np.float32),
        )

    @staticmethod
    def of(shapes: Sequence[Shape | None]) -> Masks:
        """Of as many objects."""
        packer = MaskPacker()
        for shape in shapes:
            packer.add(shape)
        return packer.masks()

    @property
    def known(self) -> Bool:
        """(N,) which objects have a mask."""
        known: Bool = self.spans[:, 1] > self.spans[:, 0]
        return known

    @property
    def boxes(self) -> Float32:
        """(N, 4) the box around each mask in the present frame, and beyond it; zeros for one without."""
        scale, shift = np.tile(self.placement[:, :2], 2), np.tile(self.placement[:, 2:], 2)
        corners = (self.extents * scale + shift).astype(np.float32)
        boxes = np.concatenate(
            [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], axis=1
        )
        return np.where(self.known[:, None], boxes, np.float32(0))

    def select(self, index: Index) -> Masks:
        """Some of the masks, in the order of ``index``; they share the memory of all."""
        rows: Any = index if isinstance(index, slice) else np.asarray(index)
        return Masks(self.data, self.spans[rows], self.extents[rows], self.placement[rows], self.limits[rows])

    def without(self, dropped: Bool) -> Masks:
        """The same objects, of which some have no mask any more."""
        return replace(self, spans=np.where(dropped[:, None], 0, self.spans))

    def content(self, index: int) -> bytes:
        """The pixels of one mask: equal ones have equal bytes; none of an object without one."""
        grid, place = self.grid(index)
        return grid.tobytes() + repr(place).encode() if self.known[index] else b""

    def without_a_pixel(self, size: tuple[int, int]) -> Bool:
        """(N,) which masks cover no pixel of a frame of that (width, height), as lines and slivers do."""
        narrow = (self.boxes[:, 2:] - self.boxes[:, :2]).min(axis=1, initial=np.inf) < _NARROW
        starts, lengths = self.spans[:, 0], self.spans[:, 1] - self.spans[:, 0]
        for points in (3, 4):  # what annotators leave by a slip
            rows = np.flatnonzero(lengths == 3 + 2 * points)
            rows = rows[self.data[starts[rows]] != _RUNS]
            if not len(rows):
                continue
            numbers = self.data[starts[rows, None] + 3 + np.arange(2 * points)].view(np.float32)
            x, y = numbers[:, 0::2].astype(np.float64), numbers[:, 1::2].astype(np.float64)
            twice = np.abs((x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1))
            narrow[rows] |= twice * np.abs(self.placement[rows, :2].prod(axis=1)) < 2 * _NARROW
        empty = np.zeros(len(self), np.bool_)
        suspects = np.flatnonzero(narrow & self.known & np.isfinite(self.boxes).all(axis=1))
        if len(suspects):
            framed = self.crop((0, 0, *size), size)
            empty[suspects] = [not framed.grid(index)[0].any() for index in suspects.tolist()]
        return empty

    def cut_off(self, which: Bool) -> Masks:
        """The same objects, of some of which nothing is left beyond the frame: run lengths of its pixels."""
        shapes = list(self.shapes())
        for index in np.flatnonzero(which & self.known).tolist():
            shapes[index] = self._run_lengths(index)
        return replace(Masks.of(shapes), limits=self.limits)

    def flip(self, width: float) -> Masks:
        """As a frame of ``width`` pixels shows them that is mirrored left to right."""
        return self._placed(self.placement * [-1, 1, -1, 1] + [0, 0, width, 0])

    def crop(self, window: Corners, size: tuple[int, int]) -> Masks:
        """As a window of their frame shows them, scaled to ``size`` (width, height)."""
        x0, y0, x1, y1 = window
        scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)])
        placed = (self.placement - [0, 0, x0, y0]) * np.tile(scale, 2)
        return replace(
            self._placed(placed), limits=np.broadcast_to(np.array(size, np.float32), (len(self), 2))
        )

    def warp(self, matrix: Array, size: tuple[int, int]) -> Masks:
        """As an affine map shows them in a frame of that (width, height): new data, of each one.

        Points are moved. Of run lengths each new pixel is the one that its centre comes from: mirrored, and
        turned by quarters, they are exact.
        """
        packer = MaskPacker()
        matrices = np.broadcast_to(np.asarray(matrix, np.float64), (len(self), 2, 3))
        for shape, linear, shift in zip(self.shapes(), matrices[..., :2], matrices[..., 2], strict=True):
            if isinstance(shape, Outline):
                rings = [ring @ linear.T + shift for ring in shape.rings]
                packer.add(Outline(rings, even_odd=shape.even_odd))
            elif shape is not None:
                packer.add(_warped(shape, linear, shift))
            else:
                packer.add(None)
        limits = np.broadcast_to(np.array(size, np.float32), (len(self), 2))
        return replace(packer.masks(), limits=limits)

    def _placed(self, placement: Float64) -> Masks:
        return replace(self, placement=placement)

    def to(self, device: torch.device | str) -> Bitmaps:
        """Rasterised, each in a grid of its own of at most :data:`GRID_SIDE` cells a side, on a device."""
        return self.bitmaps().to(device)

    def cut(self, boxes: Float32, share: Float32, size: tuple[int, int]) -> tuple[Float32, Float32]:
        """What a frame shows of objects that it cuts, by their masks.

        The box around what is left of a tilted rod is smaller than what is left of the box around it.

        Args:
            boxes: (N, 4), cut at the frame's border.
            share: (N,) of each box's area that is left.
            size: (width, height) of the frame.

        Returns:
            The same, of objects with a mask by the mask: without area where the frame shows nothing of it.

        """
        rows = np.flatnonzero(self.known & (share < 1 - 1e-4))
        if not len(rows):
            return boxes, share
        boxes, share, some = boxes.copy(), share.copy(), self.select(rows)
        boxes[rows], share[rows] = some.bitmaps(cut=False).visible_part(size)
        sides = some.boxes[:, 2:] - some.boxes[:, :2]
        long = np.flatnonzero((sides > GRID_SIDE).any(axis=1) & (share[rows] > 0))
        if len(long):  # the cells of the whole are coarse: the box is that of the cells of what is left
            boxes[rows[long]] = some.select(long).bitmaps().visible_part(size)[0]
        return boxes, share

    def bitmaps(self, most: int = GRID_SIDE, *, cut: bool = True) -> Bitmaps:
        """Rasterised, each in a grid around it: a cell is a pixel of the frame unless it is longer than that.

        Args:
            most: cells of a side.
            cut: whether the frame cuts them.

        """
        grids = [self.grid(index, most, cut=cut) for index in range(len(self))]
        high = max((grid.shape[0] for grid, _ in grids), default=1)
        wide = max((grid.shape[1] for grid, _ in grids), default=1)
        values = np.zeros((len(grids), max(high, 1), max(wide, 1)), np.uint8)
        frames = np.zeros((len(grids), 4), np.float32)
        for index, (grid, (x0, y0, x1, y1)) in enumerate(grids):
            rows, columns = grid.shape
            values[index, :rows, :columns] = 255 * grid
            if rows and columns:
                frames[index] = (x0, y0, x0 + (x1 - x0) / columns * wide, y0 + (y1 - y0) / rows * high)
        return Bitmaps(values, frames, self.known)

    def grid(self, index: int, most: int | None = None, *, cut: bool = True) -> tuple[Bitmap, Corners]:
        """The pixels of one mask around it, 0 and 1, and the place of the frame that they cover.

        Args:
            index: of the object; one without a mask has an empty grid.
            most: cells of a side; None for a cell a pixel, whatever the size.
            cut: whether the frame cuts it.

        """
        x0, y0, x1, y1 = self.boxes[index].tolist()
        if cut:
            width, height = self.limits[index].tolist()
            x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if not self.known[index] or x1 <= x0 or y1 <= y0:
            return np.zeros((0, 0), np.uint8), (0, 0, 0, 0)
        left, top, right, bottom = np.floor(x0), np.floor(y0), np.ceil(x1), np.ceil(y1)
        columns, rows = int(right - left), int(bottom - top)
        if most is not None:
            columns, rows = min(columns, most), min(rows, most)
        # from the mask's own coordinates to cells
        across, down = columns / (right - left), rows / (bottom - top)
        sx, sy, dx, dy = self.placement[index].tolist()
        sx, sy, dx, dy = sx * across, sy * down, (dx - left) * across, (dy - top) * down
        content = self.data[slice(*self.spans[index].tolist())]
        if content[0] == _RUNS:
            bitmap = decode_runs(int(content[1]), int(content[2]), content[3:])
            grid = _scaled(bitmap, (sx, sy), (dx, dy), (columns, rows))
        else:
            rings = [ring * (sx, sy) + (dx, dy) for ring in _rings(content)]
            grid = rasterise(rings, columns, rows, even_odd=bool(content[0] == _EVEN_ODD))
        return grid, (float(left), float(top), float(right), float(bottom))

    def shapes(self) -> Iterator[Shape | None]:
        """Each mask in the present frame: outlines as they came, run lengths around the object."""
        for index, (known, span) in enumerate(zip(self.known.tolist(), self.spans.tolist(), strict=True)):
            if not known:
                yield None
                continue
            content = self.data[slice(*span)]
            sx, sy, dx, dy = self.placement[index].tolist()
            if content[0] != _RUNS:
                rings = [ring * (sx, sy) + (dx, dy) for ring in _rings(content)]
                yield Outline(rings, even_odd=bool(content[0] == _EVEN_ODD))
            else:
                yield self._run_lengths(index)

    def _run_lengths(self, index: int) -> RunLengths:
        """One mask's pixels of the present frame, around the object."""
        grid, (left, top, _, _) = self.grid(index)
        return RunLengths(grid.shape[1], grid.shape[0], runs_of(grid), int(left), int(top))

    def encoded(self, width: int, height: int) -> list[RunLengthsOfImage | None]:
        """Each mask as COCO's run lengths of a whole frame of that size; None for an object without one."""
        framed = self.crop((0, 0, width, height), (width, height))
        return [
            encode(*framed.grid(index), width=width, height=height) if known else None
            for index, known in enumerate(framed.known.tolist())
        ]

    @classmethod
    def cat(cls, parts: Sequence[Masks]) -> Masks:
        """The masks of all parts, of which there is at least one.

        Where they share one array, as those of a file do, and it holds little else, so do all together: a
        copy of a million masks takes 200 MB. Else the data are what is theirs.
        """
        data = parts[0].data
        spans = np.concatenate([part.spans for part in parts])
        if all(part.data is data for part in parts) and 4 * int(np.diff(spans).sum()) > 3 * len(data):
            return cls._joined(parts, data, spans)
        chunks, start = [], 0
        moved = []
        for part in parts:
            lengths = part.spans[:, 1] - part.spans[:, 0]
            breaks = np.flatnonzero(part.spans[1:, 0] != part.spans[:-1, 1]) + 1
            firsts = part.spans[np.concatenate([[0], breaks]) if len(part) else breaks, 0]
            lasts = part.spans[np.concatenate([breaks, [len(part)]]) - 1 if len(part) else breaks, 1]
            chunks += [part.data[a:b] for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True)]
            ends = start + np.cumsum(lengths)
            moved.append(np.stack([ends - lengths, ends], axis=1))
            start = int(ends[-1]) if len(ends) else start
        return cls._joined(parts, np.concatenate([data[:0], *chunks]), np.concatenate(moved))

    @classmethod
    def _joined(cls, parts: Sequence[Masks], data: Array, spans: Int64) -> Masks:
        return cls(
            data,
            spans,
            np.concatenate([part.extents for part in parts]),
            np.concatenate([part.placement for part in parts]),
            np.concatenate([part.limits for part in parts]),
        )


def _scaled(
    bitmap: Bitmap, scale: tuple[float, float], shift: tuple[float, float], size: tuple[int, int]
) -> Bitmap:
    """A bitmap in a grid of (width, height): of a cell for several pixels, what most of them are.

    Where that leaves nothing, as of a thin line, a cell is the object's if any of its pixels is.
    """
    finer = min(math.ceil(1 / max(min(map(abs, scale)), 1e-6) - 1e-6), _MOST_PIXELS)
    width, height = size
    linear = np.diag(np.asarray(scale) * finer)
    moved = finer * shift[0], finer * shift[1]
    grid: Bitmap = pulled(bitmap, linear, moved, corner=(0, 0), size=(finer * width, finer * height))
    if finer == 1:
        return grid
    pixels = grid.reshape(height, finer, width, finer).sum(axis=(1, 3), dtype=np.int64)
    most: Bitmap = (2 * pixels >= finer**2).astype(np.uint8)
    any_: Bitmap = (pixels > 0).astype(np.uint8)
    return most if most.any() else any_


def _rings(content: Array) -> list[Float64]:
    """The rings of an outline's data."""
    count = int(content[1])
    lengths = content[2 : 2 + count]
    points = content[2 + count :].view(np.float32).astype(np.float64).reshape(-1, 2)
    return np.split(points, np.cumsum(lengths[:-1]))


def _warped(mask: RunLengths, linear: Array, shift: Array) -> RunLengths:
    """Run lengths around what an affine map makes of a mask."""
    left, top = mask.left, mask.top
    corners = np.array([(x, y) for x in (left, left + mask.width) for y in (top, top + mask.height)])
    corners = corners @ linear.T + shift
    left, top = np.floor(corners.min(axis=0) + 1e-6).astype(int).tolist()
    right, bottom = np.ceil(corners.max(axis=0) - 1e-6).astype(int).tolist()
    bitmap = decode_runs(mask.width, mask.height, mask.counts)
    grid = pulled(
        bitmap, linear, shift - (left, top), corner=(mask.left, mask.top), size=(right - left, bottom - top)
    )
    return RunLengths(grid.shape[1], grid.shape[0], runs_of(grid), left, top)


def masks_in(fields: Mapping[str, object]) -> Masks | None:
    """The masks among the fields of objects, where these have any."""
    masks = fields.get(MASKS)
    return masks if isinstance(masks, Masks) else None


def bitmaps_in(fields: Mapping[str, object]) -> Bitmaps | None:
    """The same among the fields of the objects of a view: there masks are bitmaps."""
    masks = fields.get(MASKS)
    return masks if isinstance(masks, Bitmaps) else None
