"""Azure AutoML's tiles: a grid of so many columns and rows, whatever the image's size."""

from __future__ import annotations

from tilewise.views.view import Scaling, View, Window, whole_image


def grid_tile(width: float, height: float, grid: tuple[int, int], *, overlap: float) -> tuple[float, float]:
    """The width and height of a grid's tiles in pixels of the image, not rounded.

    ``n`` tiles along a side, of which neighbours share ``overlap`` of a tile, fill it when each is
    ``side / (overlap + (1 - overlap) * n)`` long (Azure AutoML's formula).

    Args:
        width: pixels of the image.
        height: pixels of the image.
        grid: columns and rows.
        overlap: at least 0, less than 1.

    """
    columns, rows = grid
    return width / (overlap + (1 - overlap) * columns), height / (overlap + (1 - overlap) * rows)


def grid_windows(width: int, height: int, grid: tuple[int, int], *, overlap: float) -> list[Window]:
    """The tiles of a grid, column by column, as Azure AutoML lays them: corners rounded to whole pixels.

    Args as :func:`grid_tile`. In an image of so few pixels that some tiles would have none, these are left
    out.
    """
    tile_width, tile_height = grid_tile(width, height, grid, overlap=overlap)
    columns = [_ends(index, tile_width, overlap) for index in range(grid[0])]
    rows = [_ends(index, tile_height, overlap) for index in range(grid[1])]
    return [(x0, y0, x1, y1) for x0, x1 in columns for y0, y1 in rows if x0 < x1 and y0 < y1]


def _ends(index: int, tile: float, overlap: float) -> tuple[int, int]:
    start = index * (1 - overlap) * tile
    return round(start), round(start + tile)


def grid_views(
    width: int, height: int, grid: tuple[int, int], *, overlap: float, scaling: Scaling
) -> list[View]:
    """The whole image, and then the tiles of a grid, all of which are scaled to one size."""
    size = scaling.size_of(*grid_tile(width, height, grid, overlap=overlap))
    tiles = [View(window, size) for window in grid_windows(width, height, grid, overlap=overlap)]
    return whole_image(width, height, scaling) + tiles
