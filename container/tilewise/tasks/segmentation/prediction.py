from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilewise.inference.detections import Prediction, merge_instances
from tilewise.instances import Instances
from tilewise.models.spec import SegmenterSpec
from tilewise.tiling.spec import Tiling
from tilewise.views.view import View


@dataclass(frozen=True)
class SegmentedPrediction(Prediction):
    """What was found in one image, each instance with its mask, and how answers are to show these.

    Attributes:
        most_points: of an instance's outline.
        image_type: of the masks' pictures; "" for none.

    """

    most_points: int = 100
    image_type: str = ""


def merge_segmented(
    shown: Sequence[tuple[View, Instances]],
    width: int,
    height: int,
    tiling: Tiling,
    *,
    spec: SegmenterSpec,
    limit: int | None = None,
) -> SegmentedPrediction:
    """As :func:`tilewise.inference.detections.merge_instances`, for the model of ``spec``."""
    found = merge_instances(
        shown,
        width,
        height,
        tiling,
        limit=limit,
        mask_threshold=spec.mask_pixel_score_threshold,
    )
    image_type = spec.image_type if spec.export_as_image else ""
    return SegmentedPrediction(width, height, found.detections, spec.max_number_of_polygon_points, image_type)
