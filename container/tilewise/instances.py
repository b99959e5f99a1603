from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from tilewise.arrays import Float32, Int64
from tilewise.boxes import clip_boxes, crop_boxes, flip_boxes
from tilewise.fields import Corners, Field, Index, cat_fields


class Instance(NamedTuple):
    """One thing that was found, in plain numbers: for what is drawn, written or sent."""

    box: list[float]
    score: float
    label: int


@dataclass(frozen=True)
class Instances:
    """What a detector finds in one view or one image, best score first; arrays, whatever has found it.

    All that moves, chooses or joins instances does so with their fields, so that what a detector says of each
    one beside these three, such as its mask, reaches whoever asks for an image's instances.

    Attributes:
        boxes: (N, 4) float32, ``xmin, ymin, xmax, ymax`` in pixels of the view or of the upright image.
        scores: (N,) float32 in 0..1.
        labels: (N,) int64, the 0-based index into the model's classes.
        fields: name -> a field of the N instances.

    Example:
        >>> found = Instances(boxes, scores, labels, {"angle": Rows(angles)})
        >>> found.select(found.scores >= 0.5).fields["angle"].values

    """

    boxes: Float32
    scores: Float32
    labels: Int64
    fields: Mapping[str, Field] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Instance]:
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return map(Instance._make, rows)

    def select(self, index: Index) -> Instances:
        """Some of the instances, in the order of ``index``."""
        fields = {name: each.select(index) for name, each in self.fields.items()}
        return Instances(self.boxes[index], self.scores[index], self.labels[index], fields)

    def flip(self, width: float) -> Instances:
        """As a frame of ``width`` pixels shows them that is mirrored left to right."""
        fields = {name: each.flip(width) for name, each in self.fields.items()}
        return replace(self, boxes=flip_boxes(self.boxes, width), fields=fields)

    def crop(self, window: Corners, size: tuple[int, int]) -> Instances:
        """As a window of their frame shows them, scaled to ``size`` (width, height) in pixels.

        Boxes are cut at the window's border. None is dropped: what lies outside has no area left.
        """
        fields = {name: each.crop(window, size) for name, each in self.fields.items()}
        return replace(self, boxes=clip_boxes(crop_boxes(self.boxes, window, size), size), fields=fields)

    @staticmethod
    def none() -> Instances:
        """Of a view that shows nothing."""
        return Instances(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def cat(cls, parts: Sequence[Instances]) -> Instances:
        """All instances of several views, of which there is at least one, view by view.

        A part without instances needs no fields.

        Raises:
            ValueError: some instances have other fields than others.

        """
        with_instances = [part for part in parts if len(part)] or parts[:1]
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            cat_fields([part.fields for part in with_instances]),
        )
