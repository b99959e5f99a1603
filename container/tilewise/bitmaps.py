from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilewise.arrays import Bool, Float32
from tilewise.boxes import crop_boxes, flip_boxes
from tilewise.fields import Corners, Index, cat_rows, to_device

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Bitmaps:
    """Masks as grids of one shape, each of which covers a place of the frame: a field of N objects.

    What a detector learns from, and what it says of an object before that is placed in its image.

    Attributes, arrays or tensors:
        values: (N, h, w) uint8. What is learnt from is 0 or 255; of what was found, how sure the detector is
            of each cell, of 255.
        frames: (N, 4) float32, the place that each grid covers, ``x0, y0, x1, y1``; it may reach beyond the
            frame.
        known: (N,) bool, which objects have a mask.

    """

    values: Any
    frames: Any
    known: Any

    def __len__(self) -> int:
        return len(self.frames)

    def select(self, index: Index) -> Bitmaps:
        """Some of the masks, in the order of ``index``."""
        rows: Any = index
        if isinstance(self.values, np.ndarray) and not isinstance(index, slice):
            rows = np.asarray(index)
        return Bitmaps(self.values[rows], self.frames[rows], self.known[rows])

    def flip(self, width: float) -> Bitmaps:
        """As a frame of ``width`` pixels shows them that is mirrored left to right."""
        values: Any = self.values
        mirrored: Any = values[:, :, ::-1] if isinstance(values, np.ndarray) else values.flip(-1)
        return replace(self, values=mirrored, frames=flip_boxes(self.frames, width))

    def crop(self, window: Corners, size: tuple[int, int]) -> Bitmaps:
        """As a window of their frame shows them, scaled to ``size``: the same grids at another place."""
        return replace(self, frames=crop_boxes(self.frames, window, size))

    def warp(self, matrix: Any, size: tuple[int, int]) -> Bitmaps:
        """As an affine map shows them in a frame of that size.

        Each new cell is the one that its centre comes from: mirrored and turned by quarters, they are exact.
        """
        values, frames = np.asarray(self.values), np.asarray(self.frames, np.float64)
        matrices = np.broadcast_to(np.asarray(matrix, np.float64), (len(values), 2, 3))
        high, wide = values.shape[1:]
        straight = not matrices[:, 0, 1].any() and not matrices[:, 1, 0].any()
        turned = not matrices[:, 0, 0].any() and not matrices[:, 1, 1].any()
        shape = (wide, high) if straight else (high, wide) if turned else (max(wide, high),) * 2
        new = np.zeros((len(values), shape[1], shape[0]), np.uint8)
        places = np.zeros((len(values), 4), np.float32)
        for index, (x0, y0, x1, y1) in enumerate(frames.tolist()):
            linear, shift = matrices[index, :, :2], matrices[index, :, 2]
            corners = np.array([(x, y) for x in (x0, x1) for y in (y0, y1)]) @ linear.T + shift
            low, far = corners.min(axis=0), corners.max(axis=0)
            places[index] = (*low, *far)
            if (far > low).all() and x1 > x0 and y1 > y0:
                old_cell = np.array([(x1 - x0) / wide, (y1 - y0) / high])
                new_cell = (far - low) / shape
                # from old cells to new ones
                across = linear * old_cell / new_cell[:, None]
                start = ((np.array([x0, y0]) @ linear.T + shift) - low) / new_cell
                new[index] = pulled(values[index], across, start, corner=(0, 0), size=shape)
        if isinstance(self.values, np.ndarray):
            return Bitmaps(new, places, self.known)
        import torch

        return Bitmaps(torch.from_numpy(new), torch.from_numpy(places), self.known)

    def visible_part(self, size: tuple[int, int]) -> tuple[Float32, Float32]:
        """What a frame of that (width, height) shows of the masks, by the centres of their cells.

        Returns:
            (N, 4) the boxes around the cells that it shows; of none without area;
            (N,) the share of each mask's cells that they are.

        """
        values, frames = np.asarray(self.values), np.asarray(self.frames)
        high, wide = values.shape[1:]
        cells = (frames[:, 2:] - frames[:, :2]) / [wide, high]
        inside = values > 127
        shown = inside & _within(frames, (wide, high), size)
        boxes = np.zeros((len(frames), 4), np.float32)
        for axis, count in ((0, wide), (1, high)):
            taken: Bool = np.any(shown, axis=1 if axis == 0 else 2)
            first = taken.argmax(axis=1)
            last = np.where(np.any(taken, axis=1), count - taken[:, ::-1].argmax(axis=1), first)
            boxes[:, axis] = np.clip(frames[:, axis] + first * cells[:, axis], 0, size[axis])
            boxes[:, axis + 2] = np.clip(frames[:, axis] + last * cells[:, axis], 0, size[axis])
        share = shown.sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
        return boxes, share.astype(np.float32)

    def cut(self, size: tuple[int, int]) -> Bitmaps:
        """Without the cells whose centres a frame of that (width, height) does not show."""
        high, wide = self.values.shape[1:]
        within: Any = _within(np.asarray(self.frames), (wide, high), size)
        if not isinstance(self.values, np.ndarray):
            import torch

            within = torch.from_numpy(within)
        return replace(self, values=self.values * within)

    def to(self, device: torch.device | str) -> Bitmaps:
        """As tensors on a device."""
        return Bitmaps(
            to_device(self.values, device), to_device(self.frames, device), to_device(self.known, device)
        )

    @classmethod
    def cat(cls, parts: Sequence[Bitmaps]) -> Bitmaps:
        """The masks of all parts, of which there is at least one; smaller grids get empty cells."""
        high = max(part.values.shape[1] for part in parts)
        wide = max(part.values.shape[2] for part in parts)
        parts = [_grown(part, high, wide) for part in parts]
        return cls(
            cat_rows([part.values for part in parts]),
            cat_rows([part.frames for part in parts]),
            cat_rows([part.known for part in parts]),
        )


def _within(frames: Any, cells: tuple[int, int], size: tuple[int, int]) -> Bool:
    """(N, h, w) which cells of grids have their centre in a frame of that (width, height)."""
    seen = []
    for axis, count in enumerate(cells):
        lengths = (frames[:, 2 + axis] - frames[:, axis]) / count
        centres = frames[:, axis, None] + (np.arange(count) + 0.5) * lengths[:, None]
        seen.append((centres > 0) & (centres < size[axis]))
    within: Bool = seen[0][:, None, :] & seen[1][:, :, None]
    return within


def _grown(part: Bitmaps, high: int, wide: int) -> Bitmaps:
    """With rows below and columns on the right."""
    values: Any = part.values
    frames: Any = part.frames
    count, rows, columns = values.shape
    if (rows, columns) == (high, wide):
        return part
    if isinstance(values, np.ndarray):
        grown: Any = np.zeros((count, high, wide), values.dtype)
        frames = frames.copy()
    else:
        grown = values.new_zeros((count, high, wide))
        frames = frames.clone()
    grown[:, :rows, :columns] = values
    frames[:, 2] = frames[:, 0] + (frames[:, 2] - frames[:, 0]) * (wide / columns)
    frames[:, 3] = frames[:, 1] + (frames[:, 3] - frames[:, 1]) * (high / rows)
    return Bitmaps(grown, frames, part.known)


def pulled(grid: Any, linear: Any, shift: Any, *, corner: tuple[float, float], size: tuple[int, int]) -> Any:
    """A grid as an affine map shows it: each new cell is the one that its centre comes from, 0 outside.

    Args:
        grid: (h, w).
        linear: (2, 2) of the map from the old frame to the new grid's.
        shift: (2,) of that map.
        corner: where the old grid begins in the old frame.
        size: (width, height) of the new grid.

    """
    width, height = size
    x, y = np.arange(width) + 0.5 - shift[0], np.arange(height) + 0.5 - shift[1]
    if not linear[0, 1] and not linear[1, 0]:  # rows and columns stay such
        columns = np.floor(x / linear[0, 0] - corner[0] + 1e-9).astype(np.int64)
        rows = np.floor(y / linear[1, 1] - corner[1] + 1e-9).astype(np.int64)
        across, down = (columns >= 0) & (columns < grid.shape[1]), (rows >= 0) & (rows < grid.shape[0])
        new = np.zeros((height, width), grid.dtype)
        new[np.ix_(down, across)] = grid[np.ix_(rows[down], columns[across])]
        return new
    old = np.stack(np.meshgrid(x, y), axis=-1) @ np.linalg.inv(linear).T
    old = np.floor(old - corner + 1e-9).astype(np.int64)
    inside = ((old >= 0) & (old < (grid.shape[1], grid.shape[0]))).all(axis=-1)
    new = np.zeros((height, width), grid.dtype)
    new[inside] = grid[old[inside, 1], old[inside, 0]]
    return new
