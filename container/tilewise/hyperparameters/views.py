"""Which hyperparameters of views go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tilewise.hyperparameters.reader import Reader

_ONLY_WITH = {
    "tile_grid_size": ("grid", "whole"),
    "tile_size": ("fixed", "whole"),
    "chip_size": ("sniper",),
    "pyramid_scales": ("snip", "sniper"),
    "pyramid_ranges": ("snip", "sniper"),
    "negative_views_ratio": ("grid", "fixed", "snip", "sniper"),
    "negative_views": ("sniper",),
    "multi_scale": ("whole", "grid", "fixed"),
    "random_windows": ("whole", "grid", "fixed"),
}
"""The training_views that each of these has an effect with."""


def training_views(values: Mapping[str, Any]) -> str:
    """What training looks at, where ``training_views`` leaves it open."""
    if values.get("training_views"):
        return str(values["training_views"])
    if values.get("tile_grid_size"):
        return "grid"
    return "fixed" if values.get("tile_size") else "whole"


def check_views(reader: Reader, defaults: Mapping[str, Any]) -> None:
    """Refuse what has no effect, or contradicts.

    Args:
        reader: what is given.
        defaults: the job's, by canonical name.

    """
    entries, refuse = reader.entries, reader.refuse
    grid, size = entries.get("tile_grid_size"), entries.get("tile_size")
    if grid and size:
        refuse(size.name, f"{grid} and {size} exclude each other: give one of them")
        return
    views = training_views({**defaults, **{name: entry.value for name, entry in entries.items()}})
    setting = f"training_views={views}" if "training_views" in entries else f"training_views (here {views})"
    for name, regimes in _ONLY_WITH.items():
        entry = entries.get(name)
        if entry and entry.value is not False and views not in regimes:
            refuse(entry.name, f"{entry} does not go with {setting}, only with {' or '.join(regimes)}")
    tiled = views != "whole" or grid or size or defaults.get("tile_grid_size")
    merge = entries.get("tile_merge")
    if merge and not tiled:
        refuse(merge.name, f"{merge}: there are no tiles; give tile_grid_size or tile_size, or leave it out")
    shown = entries.get("smallest_object")
    if shown and (size or (grid and grid.value != "auto") or not tiled):
        refuse(
            shown.name,
            f"{shown} has no effect: only tiles that are chosen from the data follow it, as with "
            "tile_grid_size=auto",
        )
    _check_pyramid(reader)


def _check_pyramid(reader: Reader) -> None:
    scales, ranges = reader.entries.get("pyramid_scales"), reader.entries.get("pyramid_ranges")
    if ranges and (not scales or len(scales.value) != len(ranges.value)):
        count = len(scales.value) if scales else "no"
        reader.refuse(
            ranges.name,
            f"{ranges}: {len(ranges.value)} ranges for {count} scales; give pyramid_scales with as many",
        )
