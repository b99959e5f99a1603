"""Choosing a grid of tiles from the data, so that nobody has to search for one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tilewise.arrays import Bool, Floats, Int64
from tilewise.boxes import size_of_sides
from tilewise.tiling.fixed import count_fixed
from tilewise.tiling.grid import grid_tile
from tilewise.tiling.spec import LEAST_SHOWN, QUARTILE
from tilewise.views.view import Scaling

MOST_VIEWS, MOST_FIXED = 25, 100
"""Views of an image in a grid, and on average where tiles have a fixed size: small images need few of them.

Scenes, where objects would then be smaller than :data:`LEAST_SHOWN` of what is resolved, have more.
"""
MUCH_LARGER = 1.3
"""By so much tiles of a fixed size show objects larger than any grid where they are taken in its place."""
MOST_ZOOM = 2.0
"""A pixel of the image is not shown larger than so many pixels of a view: there is nothing more to see."""
MOST_STRETCH = 2.0
ALIKE = 1.5
"""Images whose sizes differ by more, the 90th percentile by the 10th, get tiles of a fixed size."""
GROWTH = 0.5
"""Unless their objects grow with them by more than this power of the images' sizes: then the images show the
same in more pixels or fewer, and the objects differ less as shares of their images than in pixels."""
LONG_OBJECTS = 90
"""The percentile of the objects' longer sides that the overlap of two tiles should hold."""
OVERLAPS = tuple(step / 20 for step in range(5, 11))
"""No less than a grid's default: what is longer than the overlap is left to the whole image, which then
teaches smaller objects than it shows well (on hemocytometer 0.20 instead of 0.25 cost 4 points of AP)."""


@dataclass(frozen=True)
class ObjectSizes:
    """What a grid is chosen for.

    Attributes:
        image_sizes: (R, 2) width and height of the images in pixels.
        sides: (N, 2) width and height of the objects in pixels of their images.
        image_of: (N,) index of each object's image.

    """

    image_sizes: Int64
    sides: Floats
    image_of: Int64

    @property
    def sizes(self) -> Floats:
        """(N,) √area of the objects in pixels of their images."""
        return size_of_sides(self.sides)


@dataclass(frozen=True)
class GridChoice:
    """A grid as columns and rows, None for no tiles; the tiles' overlap; and why, in a sentence."""

    grid: tuple[int, int] | None
    overlap: float
    reason: str


@dataclass(frozen=True)
class FixedChoice:
    """The side of tiles in pixels of the image, and why, in a sentence."""

    size: int
    reason: str


@dataclass(frozen=True)
class _Candidate:
    grid: tuple[int, int]
    overlap: float
    shown: float  # √area of the lower quartile of the objects in pixels of a tile's view
    stretch: float  # how much wider than high it shows a square, as a factor, or the other way

    @property
    def cost(self) -> int:
        return 1 + self.grid[0] * self.grid[1]


def choose_grid(
    objects: ObjectSizes, scaling: Scaling, smallest_object: float, *, overlap: float | None = None
) -> GridChoice:
    """The cheapest grid in which three quarters of the objects are large enough to be resolved.

    Where no grid gets so far within :data:`MOST_VIEWS` views and :data:`MOST_ZOOM`, the one that shows the
    objects largest.

    Args:
        objects: of the training data.
        scaling: how views are scaled.
        smallest_object: from how many pixels (√area, in a view) on the detector resolves an object.
        overlap: of the tiles; None to choose it so that nine in ten of the objects that need tiles fit in, at
            least 0.25.

    """
    none = GridChoice(None, 0.25 if overlap is None else overlap, "no tiles: there is no object")
    if not len(objects.sides):
        return none
    whole = _shown(objects, scaling, (1, 1), 0.0)
    quartile = _quartile(whole)
    start = f"three quarters of the objects measure {quartile:.0f} px or more in a view of the whole image"
    low, high = _image_sizes(objects)
    if high > ALIKE * low and _grow_with_images(objects):
        differ = f"the images' sizes differ by a factor of {high / low:.1f}"
        start = f"{differ}, and their objects' sizes with them; {start}"
    if quartile >= smallest_object:
        reason = f"no tiles: {start}, and the detector resolves objects from {smallest_object:.0f} px on"
        return GridChoice(None, none.overlap, reason)
    long = _long_side(objects, whole < smallest_object)
    candidates = _candidates(objects, scaling, long, overlap)
    if not candidates:
        return GridChoice(
            None, none.overlap, f"no tiles: {start}, but the images have no more pixels to show"
        )
    enough = [candidate for candidate in candidates if candidate.shown >= smallest_object]
    if enough:
        best = min(enough, key=lambda candidate: (candidate.cost, candidate.stretch, -candidate.shown))
    else:
        best = max(candidates, key=lambda candidate: (round(candidate.shown, 1), -candidate.cost))
    if best.shown < 1.1 * quartile:
        return GridChoice(None, none.overlap, f"no tiles: {start}, and tiles would hardly show them larger")
    columns, rows = best.grid
    words = (
        "the cheapest grid with that"
        if enough
        else f"the most that {MOST_VIEWS} views and a magnification of {MOST_ZOOM:g} can do"
    )
    reason = (
        f"{columns}x{rows} tiles with an overlap of {best.overlap:.2f}: {start}, but the detector resolves "
        f"objects from {smallest_object:.0f} px on; in these tiles they measure {best.shown:.0f} px, "
        f"{words}; nine in ten fit into {long:.0f} px of the image, which neighbouring tiles should share; "
        f"{best.cost} views an image"
    )
    return GridChoice(best.grid, best.overlap, reason)


def choose_tile_size(objects: ObjectSizes, scaling: Scaling, smallest_object: float) -> int | None:
    """The side of square tiles, in pixels of the image, that show three quarters of the objects well.

    Args as :func:`choose_grid`.

    Returns:
        None where the whole image shows them well enough.

    """
    whole = _shown(objects, scaling, (1, 1), 0.0)
    if not len(whole) or _quartile(whole) >= smallest_object:
        return None
    view = float(min(scaling.size_of(1000, 1000)))
    size = _quartile(objects.sizes)
    return max(1, round(max(view * size / smallest_object, view / MOST_ZOOM)))


def choose_fixed(
    objects: ObjectSizes, scaling: Scaling, smallest_object: float, *, overlap: float
) -> FixedChoice | None:
    """Tiles of a fixed size, where the images' sizes differ, or are so large, that no grid suits all of them.

    Where sizes differ, they are those of :func:`choose_tile_size`, or larger, so that an image has
    :data:`MOST_FIXED` on average. In scenes, and where these would be so many, they show objects at
    :data:`LEAST_SHOWN` of what the model resolves: the fewest views from which it can learn.

    Returns:
        None where a grid suits all images, or the objects differ as the images do, or the whole images show
        the objects well enough.

    """
    size = choose_tile_size(objects, scaling, smallest_object)
    if size is None:
        return None
    largest = choose_tile_size(objects, scaling, LEAST_SHOWN * smallest_object)

    def views(size: int) -> float:
        counts = [
            count_fixed(width, height, size, overlap=overlap)
            for width, height in objects.image_sizes.tolist()
        ]
        return 1 + float(np.mean(counts))

    low, high = _image_sizes(objects)
    if high > ALIKE * low and not _grow_with_images(objects):
        while views(size) > MOST_FIXED and size != largest:
            grown = math.ceil(1.1 * size)
            size = min(grown, largest) if largest else grown
        why = (
            f"the images' sizes differ by a factor of {high / low:.1f} (√area of {low:.0f} to {high:.0f} px "
            "for eight in ten), and no grid would show all objects alike"
        )
    elif largest is None:
        return None
    else:
        in_grid = _most_shown(objects, scaling)
        in_tiles = min(scaling.size_of(1000, 1000)) / largest * _quartile(objects.sizes)
        if in_tiles < MUCH_LARGER * in_grid:
            return None
        size = largest
        why = (
            f"in a grid of {MOST_VIEWS} views three quarters of the objects would measure {in_grid:.1f} px "
            f"or more, in these tiles {in_tiles:.0f} px"
        )
    return FixedChoice(
        size,
        f"tiles of {size} x {size} px: {why}; the detector resolves objects from {smallest_object:.0f} px "
        f"on; {views(size):.1f} views an image on average",
    )


def _most_shown(objects: ObjectSizes, scaling: Scaling) -> float:
    """√area of the lower quartile of the objects in pixels of a view, in the grid that shows it largest."""
    whole = _shown(objects, scaling, (1, 1), 0.0)
    candidates = _candidates(objects, scaling, 0.0, OVERLAPS[0])
    return max([_quartile(whole), *(candidate.shown for candidate in candidates)])


def _quartile(sizes: Floats) -> float:
    return float(np.percentile(sizes, QUARTILE))


def _image_sizes(objects: ObjectSizes) -> tuple[float, float]:
    """√area of the images in pixels: the 10th and the 90th percentile."""
    low, high = np.percentile(size_of_sides(objects.image_sizes), [10, 90]).tolist()
    return low, high


def _grow_with_images(objects: ObjectSizes) -> bool:
    """Whether the objects' sizes follow their images' by a power above :data:`GROWTH`, by least squares."""
    images = np.log(size_of_sides(objects.image_sizes))[objects.image_of]
    images -= images.mean()
    return bool(images @ np.log(objects.sizes) > GROWTH * (images @ images))


def _candidates(
    objects: ObjectSizes, scaling: Scaling, long: float, overlap: float | None
) -> list[_Candidate]:
    """All grids within the limits, with the overlap of each."""
    width, height = np.median(objects.image_sizes, axis=0).tolist()
    candidates = []
    for columns in range(1, MOST_VIEWS):
        for rows in range(1, (MOST_VIEWS - 1) // columns + 1):
            grid = columns, rows
            if grid == (1, 1):
                continue
            tile_overlap = _overlap(width, height, grid, long) if overlap is None else overlap
            tile = grid_tile(width, height, grid, overlap=tile_overlap)
            size = scaling.size_of(*tile)
            zooms = size[0] / tile[0], size[1] / tile[1]
            stretch = round(max(zooms) / min(zooms), 2)
            if max(zooms) <= MOST_ZOOM and stretch <= MOST_STRETCH:
                object_size = _quartile(_shown(objects, scaling, grid, tile_overlap))
                candidates.append(_Candidate(grid, tile_overlap, object_size, stretch))
    return candidates


def _overlap(width: float, height: float, grid: tuple[int, int], long: float) -> float:
    """The smallest overlap that holds ``long`` pixels wherever two tiles meet; the largest if none does."""
    for overlap in OVERLAPS:
        tile = grid_tile(width, height, grid, overlap=overlap)
        shared = [overlap * side for side, count in zip(tile, grid, strict=True) if count > 1]
        if min(shared) >= long:
            return overlap
    return OVERLAPS[-1]


def _long_side(objects: ObjectSizes, small: Bool) -> float:
    return float(np.percentile(objects.sides[small].max(axis=1), LONG_OBJECTS))


def _shown(objects: ObjectSizes, scaling: Scaling, grid: tuple[int, int], overlap: float) -> Floats:
    """(N,) √area of the objects in pixels of a tile's view."""
    sizes, image_of = np.unique(objects.image_sizes, axis=0, return_inverse=True)
    factors = []
    for width, height in sizes.tolist():
        tile = grid_tile(width, height, grid, overlap=overlap)
        size = scaling.size_of(*tile)
        factors.append(math.sqrt(size[0] / tile[0] * size[1] / tile[1]))
    factor = np.asarray(factors)[image_of.reshape(-1)[objects.image_of]]
    in_view: Floats = objects.sizes * factor
    return in_view
