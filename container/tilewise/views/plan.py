from __future__ import annotations

from tilewise.views.fixed import fixed_views
from tilewise.views.grid import grid_views
from tilewise.views.pyramid import pyramid_views
from tilewise.views.tiling import Tiling
from tilewise.views.view import Scaling, View, whole_image


def plan_views(tiling: Tiling, width: int, height: int, scaling: Scaling) -> list[View]:
    """The views of an image that are looked at when a detector is validated and when it serves.

    Args:
        tiling: the detector's.
        width: pixels of the upright image.
        height: pixels of the upright image.
        scaling: how the detector's views are scaled.

    """
    if tiling.kind == "grid":
        assert tiling.grid is not None
        return grid_views(width, height, tiling.grid, tiling.overlap, scaling)
    if tiling.kind == "fixed":
        assert tiling.tile_size is not None
        return fixed_views(width, height, tiling.tile_size, tiling.overlap, scaling)
    if tiling.kind == "pyramid":
        return pyramid_views(width, height, tiling.levels, tiling.overlap, scaling)
    return whole_image(width, height, scaling)
