from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tilewise.hyperparameters.row import Row
from tilewise.hyperparameters.values import Count, PrimaryMetric


class EvaluationHyperparameters(BaseModel, defer_build=True):
    """How a model is validated, and which figure chooses the best epoch."""

    evaluation_frequency: Annotated[Count, Row("Epochs between validations.", azure=1)]
    validation_metric_type: Annotated[
        Literal["none", "coco", "voc", "coco_voc"],
        Row(
            "Whose mAP is `validation:mAP`; `none` does not validate. VOC's is the area under the curve, in a"
            " built-in job the mean at 11 recalls.",
            azure="voc",
        ),
    ]
    primary_metric: Annotated[
        PrimaryMetric,
        Row(
            "The figure that chooses the best epoch; `mean_average_precision` is `validation:mAP`.",
            azure="mean_average_precision",
        ),
    ]
    validation_iou_threshold: Annotated[
        float,
        Field(ge=0.1, le=1),
        Row(
            "IoU at which a box is found, in the VOC figures.",
            azure=0.5,
            alias="overlap_threshold",
        ),
    ]
    log_training_metrics: Annotated[
        Literal["enable", "disable"] | None, Row("Accepted; losses are logged.", azure=None)
    ]
    log_validation_loss: Annotated[
        Literal["enable", "disable"] | None, Row("Accepted; it is not computed.", azure=None)
    ]
