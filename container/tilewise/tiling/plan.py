from __future__ import annotations

from dataclasses import replace

from tilewise.tiling.fixed import fixed_views
from tilewise.tiling.grid import grid_views
from tilewise.tiling.pyramid import pyramid_views
from tilewise.tiling.spec import Level, Tiling
from tilewise.views.view import Scaling, View, whole_image


def plan_views(
    tiling: Tiling, width: int, height: int, *, scaling: Scaling, training: bool = False
) -> list[View]:
    """The views of an image that are looked at when a detector is validated and when it serves.

    Args:
        tiling: the detector's.
        width: pixels of the upright image.
        height: pixels of the upright image.
        scaling: how the detector's views are scaled.
        training: whether they get the ranges of sizes to train on, or the wider ones to answer for; then none
            is mirrored.

    """
    views = _plain_views(tiling, width, height, scaling=scaling, training=training)
    if tiling.mirror and not training:
        return [each for view in views for each in (view, replace(view, mirrored=True))]
    return views


def _plain_views(tiling: Tiling, width: int, height: int, *, scaling: Scaling, training: bool) -> list[View]:
    if tiling.kind == "pyramid":
        return pyramid_views(
            width, height, tiling.levels, overlap=tiling.overlap, scaling=scaling, training=training
        )
    if tiling.kind == "grid":
        assert tiling.grid is not None
        views = grid_views(width, height, tiling.grid, overlap=tiling.overlap, scaling=scaling)
    elif tiling.kind == "fixed":
        assert tiling.tile_size is not None
        views = fixed_views(width, height, tiling.tile_size, overlap=tiling.overlap, scaling=scaling)
    else:
        return whole_image(width, height, scaling)
    if tiling.whole_from:
        large = Level(1.0, tiling.whole_from)
        views[0] = replace(views[0], object_sizes=large.trains_on if training else large.answers_for)
    return views
