"""What was found in an image -> GeoJSON (RFC 7946) in the coordinates of its file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilewise.data.geotiff import GeoReference
from tilewise.instances import Instances


def to_geojson(found: Instances, classes: Sequence[str], reference: GeoReference) -> dict[str, Any]:
    """A collection of one polygon for each detection, with its class and score.

    ``crs``, of GeoJSON 2008, names the file's reference system: QGIS and GDAL read it.
    """
    x0, y0, x1, y1 = found.boxes.astype(np.float64).T
    rings = np.stack([[x0, y1], [x1, y1], [x1, y0], [x0, y0], [x0, y1]]).transpose(2, 0, 1)
    placed = reference.coordinates(rings.reshape(-1, 2)).reshape(rings.shape)
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring.tolist()]},
            "properties": {"class": classes[label], "label": label, "score": score},
        }
        for ring, score, label in zip(placed, found.scores.tolist(), found.labels.tolist(), strict=True)
    ]
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if reference.epsg:
        name = f"urn:ogc:def:crs:EPSG::{reference.epsg}"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    return collection
