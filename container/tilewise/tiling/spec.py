"""Which views of an image are looked at, and how what they show becomes one answer; ``model.json`` keeps it.

Nothing here needs torch: the server's settings are read before it is loaded.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

TilingKind = Literal["whole", "grid", "fixed", "pyramid"]
MergeRule = Literal["fragment", "nms", "wbf", "pool"]

QUARTILE = 25
"""The percentile of the objects' sizes that tiles are chosen for: three quarters of them are as large."""

LEAST_SHOWN = 0.5
"""Fewer, larger tiles may show objects smaller than what the model resolves, down to such a share of it."""

ANSWER_SLACK = 1.25
"""Detections may be so much larger or smaller than what a level trains on (SNIPER: 1.1 to 1.6)."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Attributes:
        zoom: how much larger it shows an object than a view of the whole image does; 1 is the whole image,
            below 1 it lies in a frame.
        smallest, largest: the sizes of the objects that it trains on, √area in pixels of the upright image,
            ``largest`` not included; None: no limit.

    """

    zoom: float
    smallest: float = 0.0
    largest: float | None = None

    @property
    def trains_on(self) -> tuple[float, float]:
        """The sizes of the objects that it trains on."""
        return self.smallest, math.inf if self.largest is None else self.largest

    @property
    def answers_for(self) -> tuple[float, float]:
        """The sizes of the detections that it is believed for: a little more."""
        low, high = self.trains_on
        return low / ANSWER_SLACK, high * ANSWER_SLACK


@dataclass(frozen=True)
class Tiling:
    """The views of an image, and how their detections are merged.

    Attributes:
        kind: the whole image; or it and the tiles of a ``grid``; or it and tiles of a fixed ``tile_size``; or
            the ``levels`` of a pyramid.
        grid: columns and rows.
        tile_size: pixels of the image.
        levels: from the coarsest on.
        overlap: the share of a tile that neighbours have in common.
        whole_from: beside tiles the whole image trains on objects from this size on, √area in pixels of the
            upright image; tiles show smaller ones better.
        merge: the rule, see :func:`tilewise.tiling.merge.merge_detections`; ``pool`` where there are no boxes
            to merge but scores.
        merge_threshold: the IoU above which boxes of two views are one object.
        mirror: whether each view is also looked at mirrored, when the detector is validated and serves.

    """

    kind: TilingKind = "whole"
    grid: tuple[int, int] | None = None
    tile_size: int | None = None
    levels: tuple[Level, ...] = ()
    overlap: float = 0.25
    whole_from: float = 0.0
    merge: MergeRule = "fragment"
    merge_threshold: float = 0.25
    mirror: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> Tiling:
        """The inverse of :meth:`to_json`."""
        grid = content["grid"]
        levels = tuple(Level(**level) for level in content["levels"])
        return Tiling(**{**content, "grid": None if grid is None else (grid[0], grid[1]), "levels": levels})

    def __str__(self) -> str:
        return self._views() + (", each view also mirrored" if self.mirror else "")

    def _views(self) -> str:
        if self.kind == "whole":
            return "the whole image"
        pools = self.merge == "pool"
        merging = (
            "their scores pooled" if pools else f"merged by {self.merge} at IoU {self.merge_threshold:g}"
        )
        if self.kind == "pyramid":
            zooms = ", ".join(f"{level.zoom:g}" for level in self.levels)
            return f"a pyramid with zooms {zooms}, {merging}"
        if self.kind == "grid":
            assert self.grid is not None
            tiles = f"{self.grid[0]}x{self.grid[1]} tiles"
        else:
            tiles = f"tiles of {self.tile_size} px"
        large = f" for objects from {self.whole_from:g} px on" if self.whole_from else ""
        return f"the whole image{large} and {tiles} with an overlap of {self.overlap:g}, {merging}"


WHOLE_IMAGE = Tiling()


@dataclass(frozen=True)
class TileOptions:
    """What is asked for in place of a model's own tiling; None: as the model has it.

    Attributes:
        tiled: False for the whole image alone.
        grid, tile_size, overlap, merge, merge_threshold, mirror: as in :class:`Tiling`.

    """

    tiled: bool = True
    grid: tuple[int, int] | None = None
    tile_size: int | None = None
    overlap: float | None = None
    merge: MergeRule | None = None
    merge_threshold: float | None = None
    mirror: bool | None = None

    def change(self, tiling: Tiling) -> Tiling:
        """A model's tiling with these options."""
        names = ("overlap", "merge", "merge_threshold", "mirror")
        overrides = {name: getattr(self, name) for name in names}
        changed = replace(tiling, **{name: value for name, value in overrides.items() if value is not None})
        if not self.tiled:
            return replace(changed, kind="whole", grid=None, tile_size=None, levels=(), whole_from=0.0)
        if self.grid is not None:
            return replace(changed, kind="grid", grid=self.grid, tile_size=None, levels=())
        if self.tile_size is not None:
            return replace(changed, kind="fixed", grid=None, tile_size=self.tile_size, levels=())
        return changed


AS_TRAINED = TileOptions()
