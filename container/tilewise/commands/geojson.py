"""What was found in an image -> GeoJSON (RFC 7946) in the coordinates of its file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewise.data.decoding.geotiff import GeoReference
from tilewise.instances import Instances
from tilewise.masks import Masks, masks_in
from tilewise.rasters import outline
from tilewise.tasks.segmentation.answers import geometry_of


def to_geojson(found: Instances, classes: Sequence[str], reference: GeoReference) -> dict[str, Any]:
    """A collection with the mask of each detection, or its box where it has none, its class and score.

    ``crs``, of GeoJSON 2008, names the file's reference system: QGIS and GDAL read it.
    """
    x0, y0, x1, y1 = found.boxes.astype(np.float64).T
    rings = np.stack([[x0, y1], [x1, y1], [x1, y0], [x0, y0], [x0, y1]]).transpose(2, 0, 1)
    placed = reference.coordinates(rings.reshape(-1, 2)).reshape(rings.shape)
    masks = masks_in(found.fields)
    features = []
    for row, (_, score, label) in enumerate(found):
        mask = None if masks is None else _mask(masks, row, reference)
        features.append(
            {
                "type": "Feature",
                "geometry": mask or {"type": "Polygon", "coordinates": [placed[row].tolist()]},
                "properties": {"class": classes[label], "label": label, "score": score},
            }
        )
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if reference.epsg:
        name = f"urn:ogc:def:crs:EPSG::{reference.epsg}"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    return collection


def _mask(masks: Masks, row: int, reference: GeoReference) -> dict[str, Any] | None:
    """The geometry of one mask; None where there is nothing of it."""
    grid, (left, top, _, _) = masks.grid(row)
    if not grid.any():
        return None
    geometry = geometry_of([ring + np.array([left, top]) for ring in outline(grid)])
    return {**geometry, "coordinates": _placed(geometry["coordinates"], reference)}


def _placed(coordinates: list[Any], reference: GeoReference) -> list[Any]:
    """Rings, however deep they lie, in the coordinates of the file, which turn them around."""
    if isinstance(coordinates[0][0], list):
        return [_placed(each, reference) for each in coordinates]
    placed: list[Any] = reference.coordinates(np.array(coordinates[::-1])).tolist()
    return placed
