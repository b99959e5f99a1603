from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tilewise.hyperparameters.row import Row, Tuning
from tilewise.hyperparameters.values import Flag, Fraction, Natural


class AugmentationHyperparameters(BaseModel, defer_build=True):
    """How training views are varied."""

    orientation: Annotated[
        Literal["upright", "any"],
        Row(
            "`any`: objects may stand in any way, as in aerial and microscope pictures; `vertical_flip` and"
            " `quarter_turns` are on.",
            azure="upright",
        ),
    ]
    vertical_flip: Annotated[Flag, Row("Mirror half of the training views top to bottom.", azure=False)]
    quarter_turns: Annotated[Flag, Row("Turn training views by 0, 90, 180 or 270°.", azure=False)]
    rotation: Annotated[
        Annotated[float, Field(ge=0, le=45)],
        Row(
            "Turn views by up to so many degrees to either side.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 30),
        ),
    ]
    shear: Annotated[
        Annotated[float, Field(ge=0, le=30)],
        Row(
            "Shear views by up to so many degrees.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 10),
        ),
    ]
    degradation: Annotated[
        Fraction,
        Row(
            "The probability that a view is blurred, that it is noisy, and that it is compressed as JPEG.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 0.5),
        ),
    ]
    mosaic: Annotated[
        Fraction,
        Row(
            "The probability that a view is made of parts of four, each at its own scale; "
            "no `fasterrcnn_*` and no `maskrcnn_*`.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 1),
        ),
    ]
    mixup: Annotated[
        Fraction,
        Row(
            "The probability that a view shows another one in it; no `fasterrcnn_*` and no `maskrcnn_*`.",
            azure=0.0,
            tuning=Tuning("Linear", 0, 1),
        ),
    ]
    plain_epochs: Annotated[
        Natural | None,
        Row(
            "So many of the last epochs have no `mosaic` and no `mixup`.",
            azure=None,
            unset="15 % of the epochs",
        ),
    ]
