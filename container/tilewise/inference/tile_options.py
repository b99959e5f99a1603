"""Tiles that are asked for when a model is used, in place of its own: from texts, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from tilewise.errors import UserError
from tilewise.hyperparameters.values import Count, Fraction, Grid, MergeName, Overlap, TTAName, Values, shown
from tilewise.tiling.spec import TileOptions

_READERS = {
    "tile_grid_size": Values(
        Annotated[Grid, Field(description="columns x rows of more than one tile, such as 3x2, or none")]
    ),
    "tile_size": Values(Count | None),
    "tile_overlap_ratio": Values(Overlap),
    "tile_predictions_nms_threshold": Values(Fraction),
    "tile_merge": Values(MergeName),
    "tta": Values(TTAName),
}
TILE_OPTIONS = tuple(_READERS)
"""The names, those of the hyperparameters."""


def read_tile_options(texts: Mapping[str, str], written: Callable[[str], str]) -> TileOptions:
    """Read the options that are given; ``none`` for the grid or the tiles' size stands for the whole image.

    Args:
        texts: by name; an empty one is not given.
        written: how the user wrote a name, for messages.

    Raises:
        UserError: a value is wrong, or two do not go together.

    """
    values: dict[str, Any] = {}
    for name, reader in _READERS.items():
        text = texts.get(name, "").strip()
        if text:
            try:
                values[name] = reader.read(text)
            except ValueError as error:
                raise UserError(f"{written(name)}={shown(text)}: {error}") from None
    if values.get("tile_grid_size") == "auto":
        raise UserError(
            f"{written('tile_grid_size')}=auto: only training has the data to choose a grid from; "
            "give columns x rows, such as 3x2"
        )
    size_names = [name for name in ("tile_grid_size", "tile_size") if name in values]
    if len(size_names) == 2:
        raise UserError(
            f"{written(size_names[0])} and {written(size_names[1])} exclude each other: give one of them"
        )
    return TileOptions(
        tiled=not size_names or values[size_names[0]] is not None,
        grid=values.get("tile_grid_size"),
        tile_size=values.get("tile_size"),
        overlap=values.get("tile_overlap_ratio"),
        merge=values.get("tile_merge"),
        merge_threshold=values.get("tile_predictions_nms_threshold"),
        mirror=values["tta"] == "mirror" if "tta" in values else None,
    )
