from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tilewise.inference.detections import Prediction, merge_instances
from tilewise.instances import Instances
from tilewise.models.spec import SegmenterSpec
from tilewise.tasks.answers import MaskPictures
from tilewise.tiling.spec import Tiling
from tilewise.views.view import View


@dataclass(frozen=True)
class SegmentedPrediction(Prediction):
    """What was found in one image, each instance with its mask, and how answers are to show these.

    Attributes:
        most_points: of an instance's outline.
        export_as_image: whether answers hold masks as pictures, too.
        image_type: of these.

    """

    most_points: int = 100
    export_as_image: bool = False
    image_type: str = "jpg"


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
    return SegmentedPrediction(
        width,
        height,
        found.detections,
        spec.max_number_of_polygon_points,
        export_as_image=spec.export_as_image,
        image_type=spec.image_type,
    )


def with_pictures(prediction: SegmentedPrediction, pictures: MaskPictures) -> SegmentedPrediction:
    """A prediction whose answers hold masks as pictures, or not, as a request chooses."""
    return replace(
        prediction,
        export_as_image=pictures.wanted,
        image_type=pictures.image_type or prediction.image_type,
    )
