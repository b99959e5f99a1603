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
        shown = inside.copy()
        boxes = np.zeros((len(frames), 4), np.float32)
        for axis, count in ((0, wide), (1, high)):
            centres = frames[:, axis, None] + (np.arange(count) + 0.5) * cells[:, axis, None]
            seen = (centres > 0) & (centres < size[axis])
            shown &= seen[:, None, :] if axis == 0 else seen[:, :, None]
        for axis, count in ((0, wide), (1, high)):
            taken: Bool = np.any(shown, axis=1 if axis == 0 else 2)
            first = taken.argmax(axis=1)
            last = np.where(np.any(taken, axis=1), count - taken[:, ::-1].argmax(axis=1), first)
            boxes[:, axis] = np.clip(frames[:, axis] + first * cells[:, axis], 0, size[axis])
            boxes[:, axis + 2] = np.clip(frames[:, axis] + last * cells[:, axis], 0, size[axis])
        share = shown.sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
        return boxes, share.astype(np.float32)

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
