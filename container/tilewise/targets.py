from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from tilewise.arrays import Array
from tilewise.boxes import crop_boxes, flip_boxes, sides, visible_part
from tilewise.fields import Corners, Field, Index, cat_fields, cat_rows, to_device
from tilewise.masks import masks_in

A = TypeVar("A", Array, Tensor)


@dataclass(frozen=True)
class Targets(Generic[A]):
    """The ground truth of an image, of a view of it or of many images one after the other.

    Arrays in records, since most of them hold a few boxes, for which NumPy is several times as fast; tensors
    in samples and batches.

    A field is a property of each object that some jobs have, such as its mask. All that moves, chooses or
    joins objects does so with their fields: a new one takes a class with the methods of
    :class:`tilewise.fields.Field`, a reader that fills it and a consumer that wants it.

    Attributes:
        boxes: (N, 4) float32 ``xmin, ymin, xmax, ymax`` in pixels of the image or view.
        labels: (N,) int64, 0-based.
        ignored: (N,) bool: crowds and difficult objects, neither object nor background to a loss or a metric.
        fields: name -> a field of N objects.

    Example:
        >>> targets = Targets(boxes, labels, ignored, {"area": Rows(areas)})
        >>> targets.select(~targets.ignored).fields["area"].values

    """

    boxes: A
    labels: A
    ignored: A
    fields: Mapping[str, Field] = field(default_factory=dict)

    @staticmethod
    def none() -> Targets[Array]:
        """Of an image without objects."""
        return Targets(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Index) -> Self:
        """Some of the objects, in the order of ``index``; of a slice a view of the same memory."""
        fields = {name: each.select(index) for name, each in self.fields.items()}
        rows: Any = index
        return type(self)(self.boxes[rows], self.labels[rows], self.ignored[rows], fields)

    def near(self, window: Corners) -> Self:
        """Those whose boxes reach into a window: few of a scene's, which costs less than to crop all."""
        x0, y0, x1, y1 = window
        boxes: Any = self.boxes
        return self.select((boxes[:, 0] < x1) & (boxes[:, 1] < y1) & (boxes[:, 2] > x0) & (boxes[:, 3] > y0))

    def flip(self, width: float) -> Self:
        """As a frame of ``width`` pixels shows them that is mirrored left to right."""
        fields = {name: each.flip(width) for name, each in self.fields.items()}
        return replace(self, boxes=flip_boxes(self.boxes, width), fields=fields)

    def crop(self, window: Corners, size: tuple[int, int], min_visibility: float = 0.0) -> Self:
        """As a window of their frame shows them, scaled to ``size``.

        Boxes are cut at the window's border. An object of which less than a pixel is left of a side is
        dropped; one of which less than ``min_visibility`` of the area is left is ignored. Of an object with a
        mask, area and box are those of what is left of the mask.

        Args:
            window: ``x0, y0, x1, y1``; it may reach beyond the frame.
            size: (width, height) in pixels of the new frame.
            min_visibility: share of a box's area.

        """
        boxes, visible, share = visible_part(crop_boxes(self.boxes, window, size), size)
        # only what is seen is drawn anew: to do so for all masks of an image would cost every tile as much
        fields = {name: each.select(visible).crop(window, size) for name, each in self.fields.items()}
        masks = masks_in(fields)
        if masks is None:
            ignored = self.ignored | (share < min_visibility)
            return type(self)(boxes[visible], self.labels[visible], ignored[visible], fields)
        seen: Any = self.select(visible)
        before: Any = boxes[visible]
        share_before: Any = share[visible]
        cut: Any = masks.cut(before, share_before, size)
        shown, part = cut
        cropped: Any = type(self)(shown, seen.labels, seen.ignored | (part < min_visibility), fields)
        result: Self = cropped.select((sides(shown) >= 1).all(axis=1))
        return result

    def pin_memory(self) -> Self:
        """With boxes and labels in pinned memory, ready for a GPU."""
        rows: Any = self
        return replace(self, boxes=rows.boxes.pin_memory(), labels=rows.labels.pin_memory())

    def to(self, device: torch.device | str) -> Targets[Tensor]:
        """Tensors on a device; ``ignored`` stays on the CPU, which must know how many these are."""
        return Targets(
            to_device(self.boxes, device),
            to_device(self.labels, device),
            to_device(self.ignored, "cpu"),
            {name: each.to(device) for name, each in self.fields.items()},
        )

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """All objects of several images or views, of which there is at least one.

        A part without objects needs no fields.

        Raises:
            ValueError: some objects have other fields than others.

        """
        with_objects = [part for part in parts if len(part)] or parts[:1]
        return cls(
            cat_rows([part.boxes for part in parts]),
            cat_rows([part.labels for part in parts]),
            cat_rows([part.ignored for part in parts]),
            cat_fields([part.fields for part in with_objects]),
        )
