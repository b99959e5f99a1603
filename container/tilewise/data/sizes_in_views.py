"""How large the objects of a training set are in the views that a model gets."""

from __future__ import annotations

import math

import numpy as np

from tilewise.arrays import Float64
from tilewise.data.records import Records
from tilewise.tiling.plan import plan_views
from tilewise.tiling.pyramid import pyramid_views
from tilewise.tiling.spec import WHOLE_IMAGE, Tiling
from tilewise.views.view import Scaling, SizeRange


def sizes_in_views(records: Records, scaling: Scaling, tiling: Tiling = WHOLE_IMAGE) -> Float64:
    """(N,) √area of the objects in pixels of the views, once for each scale that trains on them."""
    image_sizes, size_of = np.unique(records.sizes, axis=0, return_inverse=True)
    image_of = np.repeat(size_of.reshape(-1), records.object_counts)
    by_image = np.argsort(image_of, kind="stable")
    bounds = np.searchsorted(image_of[by_image], np.arange(1, len(image_sizes)))
    sizes_in_view = [np.zeros(0)]
    for (width, height), own in zip(
        image_sizes.tolist(), np.split(records.object_sizes[by_image], bounds), strict=True
    ):
        for factor, (low, high) in _scales(width, height, scaling, tiling):
            sizes_in_view.append(own[(own >= low) & (own < high)] * factor)
    return np.concatenate(sizes_in_view)


def sizes_in_tiles(records: Records, scaling: Scaling, tiling: Tiling) -> Float64:
    """(N,) √area of the objects in pixels of the views that show them largest."""
    image_sizes, size_of = np.unique(records.sizes, axis=0, return_inverse=True)
    factors = [
        max(factor for factor, _ in _scales(width, height, scaling, tiling))
        for width, height in image_sizes.tolist()
    ]
    found: Float64 = records.object_sizes * np.repeat(
        np.array(factors)[size_of.reshape(-1)], records.object_counts
    )
    return found


def _scales(width: int, height: int, scaling: Scaling, tiling: Tiling) -> list[tuple[float, SizeRange]]:
    """The different scales of an image's views, and the sizes that each trains on."""
    if tiling.kind == "pyramid":
        views = pyramid_views(width, height, tiling.levels, overlap=0.0, scaling=scaling, training=True)
    else:
        views = plan_views(tiling, width, height, scaling=scaling, training=True)
    scales: dict[tuple[int, SizeRange], float] = {}
    for view in views:
        scale = math.sqrt(view.scale[0] * view.scale[1])
        # tiles of one grid differ by a pixel: that is no other scale
        scales.setdefault((round(20 * math.log(scale)), view.object_sizes), scale)
    return [(scale, sizes) for (_, sizes), scale in scales.items()]
