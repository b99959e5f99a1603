from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from tilewise.hyperparameters.models import BASE_NETWORKS
from tilewise.hyperparameters.row import Row
from tilewise.hyperparameters.values import AutoFlag, Count, Flag, ModelSize, MultiScale, Natural, Pattern

_BaseNetwork = Annotated[Literal["vgg-16", "resnet-50"], AfterValidator(BASE_NETWORKS.__getitem__)]


class ModelHyperparameters(BaseModel, defer_build=True):
    """Which model is trained, from which weights, and how large it sees its images."""

    task: Annotated[
        str,
        Row(
            "What the model is for: `detection`, `instance_segmentation`, `classification` or"
            " `multilabel_classification`. Azure AutoML's names, such as `image-object-detection`, are read,"
            " too, and a model's name tells its task ([how](classification.md)).",
            azure="detection",
        ),
    ]
    model_name: Annotated[
        str,
        Field(description="one of the models below"),
        Row(
            "The model, for instance segmentation by default `maskrcnn_resnet50_fpn`, for classification"
            " `seresnext`. In the built-in's terms, an SSD on this base network.",
            azure="fasterrcnn_resnet50_fpn",
            builtin="ssd_vgg16",
            alias="base_network",
            alias_type=_BaseNetwork,
        ),
    ]
    model_size: Annotated[
        ModelSize,
        Row(
            "The size of `model_name=yolov5`: `yolox_s`, `_m`, `_l` or `_x`.",
            azure=None,
            unset="medium",
        ),
    ]
    use_pretrained_model: Annotated[
        Flag,
        Row(
            "Start from the weights in channel `pretrained`, or in the image (`TILEWISE_WEIGHTS`), if there"
            " are any; 0 starts from random ones.",
            azure=True,
            alias="use_pretrained_model",
        ),
    ]
    image_size: Annotated[
        Count | None,
        Row(
            "Side of the square, in pixels, that an image is scaled to ($square_models).",
            azure=640,
            builtin=300,
            alias="image_shape",
            alias_type=Annotated[int, Field(ge=300)],
            scaling="square",
        ),
    ]
    min_size: Annotated[
        Count | None,
        Row(
            "Pixels that the shorter side is scaled to (all models but $square_models).",
            azure=600,
            builtin=None,
            unset="-",
            scaling="sides",
        ),
    ]
    max_size: Annotated[
        Count | None,
        Row(
            "Pixels that the longer side may have after scaling (all models but $square_models).",
            azure=1333,
            builtin=None,
            unset="-",
            scaling="sides",
        ),
    ]
    multi_scale: Annotated[
        MultiScale,
        Row(
            "Draw the size of each training batch: from ±50 % of `image_size`, or of `min_size` and"
            " `max_size`, in multiples of 32 (1); from these factors of it; or from factors that suit the "
            "sizes of the objects (`auto`). The first is the largest.",
            azure=False,
        ),
    ]
    random_windows: Annotated[
        AutoFlag,
        Row(
            "Train on random crops and zoom-outs of whole images and tiles; 0: these are only mirrored and"
            " recoloured, as the views of `snip` and `sniper` are. `auto`: tiles; whole images from 14 epochs"
            " and 4,500 views on.",
            azure=True,
        ),
    ]
    colour_changes: Annotated[
        AutoFlag,
        Row(
            "Change brightness, contrast, saturation and hue of training views at random; `auto`: unless the"
            " training images are grey.",
            azure=True,
        ),
    ]
    stride_4_level: Annotated[
        Flag,
        Row(
            "One more feature map, at stride 4, for the smallest objects ($stride_4_models).",
            azure=False,
        ),
    ]
    layers_to_freeze: Annotated[
        Natural | None,
        Row(
            "How many stages of the backbone to freeze, counted from its input"
            " ([which they are](models.md#stages-of-the-backbones)).",
            azure=None,
        ),
    ]
    freeze_layer_pattern: Annotated[
        Pattern,
        Row(
            "Freeze the parameters whose names it matches from their beginning, here or in the built-in's"
            " base network. `false` means none.",
            azure=None,
            alias="freeze_layer_pattern",
        ),
    ]
