from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tilewise.hyperparameters.row import Row
from tilewise.hyperparameters.values import Flag, Fraction


class MasksHyperparameters(BaseModel, defer_build=True):
    """What instance segmentation says of its objects' masks."""

    mask_pixel_score_threshold: Annotated[
        Fraction,
        Row(
            "A pixel is an object's where the model is surer of it than this.",
            azure=0.5,
            task="instance_segmentation",
        ),
    ]
    max_number_of_polygon_points: Annotated[
        Annotated[int, Field(ge=3)],
        Row(
            "Most points of an object's outline in an answer; an outline that needs more is simplified.",
            azure=100,
            task="instance_segmentation",
        ),
    ]
    export_as_image: Annotated[
        Flag,
        Row(
            "Answers hold each mask as a picture, too.",
            azure=False,
            task="instance_segmentation",
        ),
    ]
    image_type: Annotated[
        Literal["jpg", "png", "bmp"],
        Row("Of these pictures.", azure="jpg", task="instance_segmentation"),
    ]
