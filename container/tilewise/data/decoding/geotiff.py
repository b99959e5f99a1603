"""Where a GeoTIFF file lies on the ground (OGC 19-008r4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from tilewise.arrays import Array

_SCALE, _TIEPOINT, _TRANSFORMATION, _GEO_KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_PIXEL_IS_POINT, _USER_DEFINED = 2, 32767


@dataclass(frozen=True)
class GeoReference:
    """From an image's pixels to coordinates.

    Attributes:
        matrix: (2, 3): coordinates are ``matrix @ (x, y, 1)``, where (0, 0) is the corner of the first pixel.
        epsg: the number of the reference system; 0 where the file names none.

    """

    matrix: Array
    epsg: int = 0

    def coordinates(self, points_N2: Array) -> Array:
        """Points in pixels -> (N, 2) in the file's reference system."""
        return np.asarray(points_N2 @ self.matrix[:, :2].T + self.matrix[:, 2])


def read_georeference(path: Path) -> GeoReference | None:
    """Where an image lies; None where its file does not say so."""
    try:
        with tifffile.TiffFile(path) as tiff:
            tags = tiff.pages.first.tags
            scale, tie = tags.valueof(_SCALE), tags.valueof(_TIEPOINT)
            transformation, keys = tags.valueof(_TRANSFORMATION), tags.valueof(_GEO_KEYS) or ()
    except (tifffile.TiffFileError, OSError):
        return None
    if transformation:
        matrix = np.array(transformation, np.float64).reshape(4, 4)[:2, [0, 1, 3]]
    elif scale and tie:
        (x, y, _, east, north, _), (across, down) = tie[:6], scale[:2]
        matrix = np.array([[across, 0, east - x * across], [0, -down, north + y * down]])
    else:
        return None
    found = {keys[at]: keys[at + 3] for at in range(4, len(keys) - 3, 4) if not keys[at + 1]}
    if found.get(_RASTER_TYPE) == _PIXEL_IS_POINT:  # then coordinates are those of a pixel's middle
        matrix[:, 2] -= matrix[:, :2] @ (0.5, 0.5)
    epsg = found.get(_PROJECTED, 0) or found.get(_GEOGRAPHIC, 0)
    return GeoReference(matrix, 0 if epsg == _USER_DEFINED else int(epsg))
