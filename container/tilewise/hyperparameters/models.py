"""What the names of models stand for in the two dialects, and which of them this version does not have."""

from __future__ import annotations

from tilewise.registry import InputScaling

# Azure AutoML's models that are not available yet. Each needs its entry in the registry instead.
LATER_MODELS = (
    "maskrcnn_resnet18_fpn",
    "maskrcnn_resnet34_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet101_fpn",
    "maskrcnn_resnet152_fpn",
)
LATER_SCALING: InputScaling = "sides"

YOLOV5 = "yolov5"
# What Azure AutoML's model_name=yolov5 stands for, by its model_size.
YOLOV5_SIZES = {"small": "yolox_s", "medium": "yolox_m", "large": "yolox_l", "extra_large": "yolox_x"}

# What the built-in algorithm's base_network stands for.
BASE_NETWORKS = {"vgg-16": "ssd_vgg16", "resnet-50": "ssd_resnet50"}
