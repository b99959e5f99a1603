from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tilewise.hyperparameters.row import Row
from tilewise.hyperparameters.values import Bands, ClassMap, Count, Names, PixelRange, Share, Workers


class DataHyperparameters(BaseModel, defer_build=True):
    """What the channels hold, and which part of it is used."""

    num_classes: Annotated[
        Count | None,
        Row(
            "Number of classes, without background; must agree with the data.",
            azure=None,
            unset="from the data",
            alias="num_classes",
            required=True,
        ),
    ]
    class_map: Annotated[
        ClassMap,
        Row(
            "Which class ids there are, and their names, where they are not 0, 1, 2, …: "
            '`{"0": "dog", "5": "cat"}`; for formats whose classes are numbers.',
            azure=None,
            unset="ids from 0",
        ),
    ]
    classes: Annotated[
        Names,
        Row(
            "Train on these classes only, with labels in this order; `num_classes` is then how many they"
            " are, or how many the data has.",
            azure=(),
            unset="all",
        ),
    ]
    other_classes: Annotated[
        Literal["drop", "ignore"],
        Row(
            "What the objects of classes that `classes` leaves out are: `drop`, background; `ignore`, neither"
            " object nor background.",
            azure="drop",
        ),
    ]
    max_images: Annotated[
        Count | None,
        Row(
            "Use at most this many images of each channel, drawn with `seed`; input mode File only.",
            azure=None,
            unset="all",
        ),
    ]
    class_balance: Annotated[
        Literal["repeat_factor"] | None,
        Row(
            "`repeat_factor` shows images of rare classes more often in an epoch, as LVIS does: by"
            " √(threshold / the share of the images that have the class); input mode File only.",
            azure=None,
        ),
    ]
    class_balance_threshold: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Row(
            "Classes in a smaller share of the images than this are rare; `class_balance` only.",
            azure=None,
            unset="the median share of the classes, at least LVIS' 0.001",
        ),
    ]
    label_attribute: Annotated[
        str | None,
        Row(
            "The label attribute of an augmented manifest to train on, where it has several.",
            azure=None,
            unset="the only one, or the one that corrects another",
        ),
    ]
    bands: Annotated[
        Bands,
        Row(
            "Which bands of an image are red, green and blue, counted from 1, such as `4,3,2`; or one that is"
            " shown as grey.",
            azure=None,
            unset="the first three",
        ),
    ]
    pixel_range: Annotated[
        PixelRange,
        Row(
            "Values that become black and white, such as `0,4095`, of integers above 8 bits and of floats."
            " The model keeps them for its endpoint.",
            azure=None,
            unset="by [bits or percentiles](data_formats.md#bit-depth-and-bands)",
        ),
    ]
    num_training_samples: Annotated[
        Count | None,
        Row(
            "Number of training images; the data is counted all the same, but input mode Pipe needs it.",
            azure=None,
            unset="from the data",
            alias="num_training_samples",
            required=True,
        ),
    ]
    label_width: Annotated[
        Count | None,
        Row(
            "Accepted; an image may have any number of objects.",
            azure=None,
            unset="any",
            alias="label_width",
        ),
    ]
    validation_data_size: Annotated[
        Share,
        Row(
            "The share of the training images that validates where there is no channel `validation`.",
            azure=0.2,
        ),
    ]
    target_column_name: Annotated[
        Literal["label"] | None,
        Row(
            "Azure's name of the column with the labels.",
            azure=None,
            unset="label",
        ),
    ]
    num_workers: Annotated[
        Workers,
        Row(
            "Processes that load images, for each GPU; `auto` follows the machine.",
            azure=None,
            unset="auto",
        ),
    ]
    seed: Annotated[
        int,
        Field(ge=0, lt=2**32),
        Row("Seed of shuffling, augmentation and initial weights.", azure=0),
    ]
