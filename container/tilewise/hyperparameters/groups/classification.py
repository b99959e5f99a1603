from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tilewise.hyperparameters.row import Row
from tilewise.hyperparameters.values import Count


class ClassificationHyperparameters(BaseModel, defer_build=True):
    """What models see of images that have classes, and how they learn them."""

    training_crop_size: Annotated[
        Count | None,
        Row(
            "Side in pixels of the square that training sees of an image.",
            azure=None,
            unset="-",
            task="classification",
        ),
    ]
    validation_resize_size: Annotated[
        Count | None,
        Row(
            "Pixels that an image's shorter side is scaled to, before validation and serving look at its"
            " middle.",
            azure=None,
            unset="-",
            task="classification",
        ),
    ]
    validation_crop_size: Annotated[
        Count | None,
        Row(
            "Side in pixels of that square in the middle.",
            azure=None,
            unset="-",
            task="classification",
        ),
    ]
    weighted_loss: Annotated[
        Annotated[int, Field(ge=0, le=2)],
        Row(
            "How rare classes count in the loss: 0, as all others; 1, by the root of their weights; 2, by"
            " their weights, images / (classes · images of the class).",
            azure=0,
            task="classification",
        ),
    ]
    objects_as: Annotated[
        Literal["labels", "crops"] | None,
        Row(
            "What becomes of a channel whose images have objects: `labels`, the classes of an image's"
            " objects are its own; `crops`, each object is cut out, an image with one class.",
            azure=None,
            task="classification",
        ),
    ]
    top_k: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Row(
            "Also log how often the true class is among so many likeliest ones; one label an image only.",
            azure=None,
            task="classification",
        ),
    ]
