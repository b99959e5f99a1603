"""The names of the models, and which of them this version has."""

from __future__ import annotations

from typing import Literal

# To make a model available, move its name from the second list to the first.
AVAILABLE_MODELS = (
    "ssd_vgg16",
    "ssd_resnet50",
    "ssdlite_mobilenet_v3_large",
    "fasterrcnn_resnet18_fpn",
    "fasterrcnn_resnet34_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet101_fpn",
    "fasterrcnn_resnet152_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "gfl_resnet18_fpn",
    "gfl_resnet34_fpn",
    "gfl_resnet50_fpn",
    "gfl_resnet101_fpn",
    "yolox_nano",
    "yolox_tiny",
    "yolox_s",
    "yolox_m",
    "yolox_l",
    "yolox_x",
)
LATER_MODELS = (
    "maskrcnn_resnet18_fpn",
    "maskrcnn_resnet34_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet101_fpn",
    "maskrcnn_resnet152_fpn",
)

# What Azure AutoML's model_name=yolov5 stands for, by its model_size.
YOLOV5_SIZES = {"small": "yolox_s", "medium": "yolox_m", "large": "yolox_l", "extra_large": "yolox_x"}

# What the built-in algorithm's base_network stands for.
BASE_NETWORKS = {"vgg-16": "ssd_vgg16", "resnet-50": "ssd_resnet50"}

Scaling = Literal["square", "sides"]

# The models that may have one more feature map at stride 4.
PYRAMIDS = ("retinanet_", "fcos_", "gfl_")


def scaling_of(model: str) -> Scaling:
    """How a model scales its input: to a square of ``image_size``, or by ``min_size`` and ``max_size``."""
    return "square" if model.startswith(("ssd", "yolox_")) else "sides"
