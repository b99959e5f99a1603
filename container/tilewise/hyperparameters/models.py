"""What the names of models stand for in the two dialects."""

from __future__ import annotations

DEFAULT_MODELS = {
    "instance_segmentation": "maskrcnn_resnet50_fpn",
    "classification": "seresnext",
    "multilabel_classification": "seresnext",
}
"""The model of a job that names none, where it is not the table's."""

YOLOV5 = "yolov5"
# What Azure AutoML's model_name=yolov5 stands for, by its model_size.
YOLOV5_SIZES = {"small": "yolox_s", "medium": "yolox_m", "large": "yolox_l", "extra_large": "yolox_x"}

# What the built-in algorithm's base_network stands for.
BASE_NETWORKS = {"vgg-16": "ssd_vgg16", "resnet-50": "ssd_resnet50"}

PARTS_OF_RECIPES = (
    (("optimizer", "learning_rate"), ("optimizer", "learning_rate", "weight_decay")),
    (("training_views", "tile_grid_size", "tile_size"), ("tile_grid_size",)),
    ((), ("random_windows", "colour_changes")),
)
"""Where a job gives one of the first names, the others are not those of its model's recipe."""
