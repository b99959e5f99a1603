from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel

from tilewise.hyperparameters.row import Row
from tilewise.hyperparameters.values import Count, Flag, Fraction


class DetectionsHyperparameters(BaseModel, defer_build=True):
    """What a detector says of an image: scores, suppression and how many boxes."""

    box_score_threshold: Annotated[
        Fraction,
        Row("Boxes below this score are left out.", azure=0.3, builtin=0.01),
    ]
    nms_iou_threshold: Annotated[
        Fraction,
        Row(
            "IoU above which the lower of two boxes of a class is left out.",
            azure=0.5,
            builtin=0.45,
            alias="nms_threshold",
        ),
    ]
    box_detections_per_image: Annotated[
        Count,
        Row(
            "Most boxes of an image, the best first, counted after its views are merged. Without effect on"
            " `model_name=yolov5`, as in Azure.",
            azure=100,
            builtin=400,
            alias="nms_topk",
        ),
    ]
    enable_onnx_normalization: Annotated[
        Flag | None, Row("Accepted; models normalise their input themselves.", azure=None)
    ]
