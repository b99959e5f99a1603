"""Masks as the polygons of a format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tilewise.arrays import Array
from tilewise.data.writers.output import number
from tilewise.masks import Outline, RunLengths, Shape
from tilewise.rasters import decode_runs, outline, rasterise

MaskForm = Literal["as-read", "polygons", "rle", "none"]
"""How masks are written, by the option ``--masks``."""


def rings_of(shape: Shape) -> Sequence[Array]:
    """The rings of a mask, of run lengths along the edges of its pixels; by even-odd they are the mask."""
    if isinstance(shape, RunLengths):
        bitmap = decode_runs(shape.width, shape.height, shape.counts)
        return [ring + np.array([shape.left, shape.top]) for ring in outline(bitmap)]
    return shape.rings


def even_odd_rings(shape: Shape) -> Sequence[Array]:
    """The same; segments that overlap, which COCO unites, become the rings around what they cover."""
    if not isinstance(shape, Outline) or shape.even_odd or len(shape.rings) == 1:
        return rings_of(shape)
    points = np.concatenate(shape.rings)
    low = np.floor(points.min(axis=0)).astype(int)
    width, height = (np.ceil(points.max(axis=0)).astype(int) - low).tolist()
    moved = [ring - low for ring in shape.rings]
    united, apart = (
        rasterise(moved, max(width, 1), max(height, 1), even_odd=even_odd) for even_odd in (False, True)
    )
    return shape.rings if (united == apart).all() else [ring + low for ring in outline(united)]


def flat(ring: Array) -> list[int | float]:
    """``x1, y1, x2, y2, …``."""
    return [number(float(value)) for value in ring.reshape(-1).tolist()]
