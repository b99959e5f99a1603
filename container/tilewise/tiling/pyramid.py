"""SNIP's image pyramid (Singh & Davis, CVPR 2018): each level answers for the objects that suit its scale."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from tilewise.arrays import Floats
from tilewise.tiling.fixed import fixed_windows
from tilewise.tiling.spec import LEAST_SHOWN, QUARTILE, Level
from tilewise.views.view import Scaling, View

LEVEL_OVERLAP = 1.5
"""Where two levels meet, objects up to so much larger or smaller than the border train both."""
MAX_ZOOM = 6.0
"""Unless it takes more to show the objects of a scene at :data:`LEAST_SHOWN` of what is resolved."""
MAX_LEVELS = 3
MIN_SHARE = 0.01
"""A level that would train on a smaller share of the objects is left out."""


def level_tile(width: int, height: int, level: Level) -> tuple[int, int]:
    """Width and height of a level's windows in pixels of the image; below a zoom of 1 they are larger."""
    return math.ceil(width / level.zoom), math.ceil(height / level.zoom)


def pyramid_views(
    width: int,
    height: int,
    levels: tuple[Level, ...],
    *,
    overlap: float,
    scaling: Scaling,
    training: bool = False,
) -> list[View]:
    """All windows of all levels, each of the shape of the image and scaled as the whole image is.

    Args:
        width: pixels of the image.
        height: pixels of the image.
        levels: of the pyramid.
        overlap: the share of a window that neighbours have in common at least.
        scaling: of the whole image.
        training: whether the views get the ranges to train on, or the wider ones to answer for.

    """
    size = scaling.size_of(width, height)
    views = []
    for level in levels:
        sizes = level.trains_on if training else level.answers_for
        windows = fixed_windows(width, height, level_tile(width, height, level), overlap=overlap)
        views += [View(window, size, sizes) for window in windows]
    return views


def choose_zooms(sizes: Floats, smallest_object: float) -> tuple[float, ...]:
    """Zooms from 1 to the one that shows most objects well, at most three, evenly spaced in ratio.

    Args:
        sizes: (N,) √area of the objects in pixels of a view of the whole image.
        smallest_object: from how many such pixels on the detector resolves an object.

    """
    if not len(sizes):
        return (1.0,)
    zoom = smallest_object / float(np.percentile(sizes, QUARTILE))
    largest_zoom = min(zoom, max(MAX_ZOOM, LEAST_SHOWN * zoom))
    if largest_zoom <= 1.25:
        return (1.0,)
    count = 2 if largest_zoom < 2 else MAX_LEVELS
    return tuple(round(largest_zoom ** (index / (count - 1)), 2) for index in range(count))


def choose_levels(
    zooms: tuple[float, ...], scale: float, smallest_object: float, *, sizes: Floats
) -> tuple[Level, ...]:
    """The levels of a pyramid, with ranges of sizes that the data ask for.

    Between two levels lies the size at which one shows an object as much larger than twice
    ``smallest_object`` as the other shows it smaller; to either side of it the ranges overlap by
    :data:`LEVEL_OVERLAP`. Levels that hardly any object falls to are left out, and their neighbours take
    those few.

    Args:
        zooms: increasing.
        scale: pixels of a whole-image view for one pixel of a typical image.
        smallest_object: from how many pixels of a view on the detector resolves an object.
        sizes: (N,) √area of the objects in pixels of their images.

    """
    remaining_zooms = list(zooms)
    while True:
        levels = _with_ranges(remaining_zooms, scale, smallest_object)
        shares = [_share(level, sizes) for level in levels]
        if len(remaining_zooms) == 1 or min(shares) >= MIN_SHARE:
            return levels
        del remaining_zooms[int(np.argmin(shares))]


def _with_ranges(zooms: list[float], scale: float, smallest_object: float) -> tuple[Level, ...]:
    borders = [2 * smallest_object / (scale * math.sqrt(low * high)) for low, high in pairwise(zooms)]
    smallest = [*(round(border / LEVEL_OVERLAP, 1) for border in borders), 0.0]
    largest = [None, *(round(border * LEVEL_OVERLAP, 1) for border in borders)]
    return tuple(map(Level, zooms, smallest, largest))


def _share(level: Level, sizes: Floats) -> float:
    low, high = level.trains_on
    return float(((sizes >= low) & (sizes < high)).mean()) if len(sizes) else 0.0
