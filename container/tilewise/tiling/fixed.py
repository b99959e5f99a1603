"""Tiles of a fixed size, so that a large image gets more of them than a small one."""

from __future__ import annotations

from tilewise.views.view import Scaling, View, Window, whole_image


def fixed_windows(width: int, height: int, tile: tuple[int, int], *, overlap: float) -> list[Window]:
    """Tiles of one size that cover an image, row by row; the last of a row or column are moved inside.

    In an image that is smaller than a tile the only one reaches beyond it, so that objects keep their scale.

    Args:
        width: pixels of the image.
        height: pixels of the image.
        tile: the width and height of a tile in pixels.
        overlap: the share of a tile that neighbours have in common at least.

    """
    tile_width, tile_height = tile
    return [
        (x, y, x + tile_width, y + tile_height)
        for y in _starts(height, tile_height, overlap)
        for x in _starts(width, tile_width, overlap)
    ]


def count_fixed(width: int, height: int, tile: int, *, overlap: float) -> int:
    """How many square tiles :func:`fixed_windows` cuts."""
    return len(_starts(width, tile, overlap)) * len(_starts(height, tile, overlap))


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    step = max(1, tile - int(tile * overlap))
    last = max(0, length - tile)
    return [*range(0, last, step), last]


def fixed_views(width: int, height: int, tile: int, *, overlap: float, scaling: Scaling) -> list[View]:
    """The whole image, and then its square tiles of ``tile`` pixels."""
    size = scaling.size_of(tile, tile)
    windows = fixed_windows(width, height, (tile, tile), overlap=overlap)
    tiles = [View(window, size) for window in windows if window != (0, 0, width, height)]
    return whole_image(width, height, scaling) + tiles
