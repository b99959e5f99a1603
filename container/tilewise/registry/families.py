"""The entries: one for each family of models, in the order in which users see them."""

from __future__ import annotations

from dataclasses import replace

from tilewise.registry.backbones import (
    CSP_DARKNET,
    RESNET_18,
    RESNET_34,
    RESNET_50,
    RESNET_101,
    RESNET_152,
    VGG_16,
    mobilenet_v3_large,
)
from tilewise.registry.classifiers import CLASSIFIERS
from tilewise.registry.family import SMALLEST_OBJECT_AT_STRIDE_4, Backbone, Model, ModelFamily, Weights

SOURCES = {
    "torchvision": "https://download.pytorch.org/models/",
    "resnest": "https://github.com/zhanghang1989/ResNeSt/releases/download/weights_step1/",
    "pretrainedmodels": "http://data.lip6.fr/cadene/pretrainedmodels/",
    "yolox": "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/",
}
"""Where the files of weights are published.

The whole digests of :class:`Weights` are those that other published projects pin; never seen by us on the
files themselves.
"""


VIEWS = {"tile_grid_size": "auto", "random_windows": "auto", "colour_changes": "auto"}
"""What is looked at, where neither dialect says so."""

ADAMW = {"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.01}
"""What learns well, from random weights and pretrained ones (benchmarks/README.md, "A sweep of defaults")."""


def _rcnn(depth: int, resnet: Backbone, *weights: Weights) -> Model:
    """Behind a ResNet the pyramid begins at stride 4."""
    return Model(f"fasterrcnn_resnet{depth}_fpn", weights, resnet, SMALLEST_OBJECT_AT_STRIDE_4)


def _yolox(size: str, sha256: str) -> Model:
    weights = (Weights(f"yolox_{size}.pth", "yolox", sha256),)
    return Model(f"yolox_{size}", weights, CSP_DARKNET, recipe=ADAMW | VIEWS)


SSD = ModelFamily(
    name="ssd",
    pattern="ssd*",
    builder="tilewise.models.ssd:build_ssd",
    scaling="square",
    anchors="tilewise.models.ssd:published_scales",
    assignments=("nwd",),
    stride_4_level=True,
    classification_losses=frozenset({"classification"}),
    models=(
        # the last feature maps of a smaller view have no pixel; from 512 px on there is one more
        Model(
            "ssd_vgg16",
            (Weights("ssd300_vgg16_coco-b556d3b4.pth"),),
            VGG_16,
            smallest_views=((0, 288), (512, 480)),
        ),
        Model("ssd_resnet50", (), RESNET_50, smallest_views=((0, 288), (512, 32))),
        Model(
            "ssdlite_mobilenet_v3_large",
            (Weights("ssdlite320_mobilenet_v3_large_coco-a79551df.pth"),),
            mobilenet_v3_large("backbone.features.*.*"),
            recipe=ADAMW | VIEWS,
        ),
    ),
)
FASTER_RCNN = ModelFamily(
    name="fasterrcnn",
    pattern="fasterrcnn_*",
    builder="tilewise.models.faster_rcnn:build_faster_rcnn",
    scaling="sides",
    anchors="tilewise.models.faster_rcnn:published_sizes",
    two_stages=True,
    assignments=("nwd", "rfla"),
    classification_losses=frozenset({"loss_objectness", "loss_classifier"}),
    models=(
        _rcnn(18, RESNET_18),
        _rcnn(34, RESNET_34),
        _rcnn(50, RESNET_50, Weights("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")),
        _rcnn(101, RESNET_101),
        _rcnn(152, RESNET_152),
        Model(
            "fasterrcnn_mobilenet_v3_large_fpn",
            (Weights("fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth"),),
            mobilenet_v3_large("backbone.body.*"),
        ),
    ),
)
MASK_RCNN = ModelFamily(
    name="maskrcnn",
    pattern="maskrcnn_*",
    builder="tilewise.models.mask_rcnn:build_mask_rcnn",
    scaling="sides",
    anchors="tilewise.models.faster_rcnn:published_sizes",
    two_stages=True,
    assignments=("nwd", "rfla"),
    classification_losses=frozenset({"loss_objectness", "loss_classifier"}),
    tasks=("instance_segmentation",),
    models=tuple(
        Model(f"maskrcnn_resnet{depth}_fpn", weights, resnet, SMALLEST_OBJECT_AT_STRIDE_4)
        for depth, resnet, weights in (
            (18, RESNET_18, ()),
            (34, RESNET_34, ()),
            (50, RESNET_50, (Weights("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"),)),
            (101, RESNET_101, ()),
            (152, RESNET_152, ()),
        )
    ),
)
RETINANET = ModelFamily(
    name="retinanet",
    pattern="retinanet_*",
    builder="tilewise.models.one_stage:build_retinanet",
    scaling="sides",
    anchors="tilewise.models.one_stage:retinanet_sizes",
    assignments=("nwd",),
    stride_4_level=True,
    classification_losses=frozenset({"classification"}),
    models=(
        Model("retinanet_resnet50_fpn", (Weights("retinanet_resnet50_fpn_coco-eeacb38b.pth"),), RESNET_50),
    ),
)
FCOS = ModelFamily(
    name="fcos",
    pattern="fcos_*",
    builder="tilewise.models.one_stage:build_fcos",
    scaling="sides",
    assignments=("rfla",),
    stride_4_level=True,
    classification_losses=frozenset({"classification", "bbox_ctrness"}),
    models=(
        Model(
            "fcos_resnet50_fpn", (Weights("fcos_resnet50_fpn_coco-99b0c9b7.pth"),), RESNET_50, recipe=VIEWS
        ),
    ),
)
GFL = ModelFamily(
    name="gfl",
    pattern="gfl_*",
    builder="tilewise.models.gfl:build_gfl",
    scaling="sides",  # its anchors only say which points are positive: none to fit
    assignments=("rfla",),
    stride_4_level=True,
    classification_losses=frozenset({"classification"}),
    models=(
        Model("gfl_resnet18_fpn", (), RESNET_18, recipe=VIEWS),
        Model("gfl_resnet34_fpn", (), RESNET_34, recipe=VIEWS),
        Model("gfl_resnet50_fpn", (), RESNET_50, recipe=VIEWS),
        Model("gfl_resnet101_fpn", (), RESNET_101, recipe=VIEWS),
    ),
)
YOLOX = ModelFamily(
    name="yolox",
    pattern="yolox_*",
    builder="tilewise.models.yolox:build_yolox",
    scaling="square",
    stride_4_level=True,
    classification_losses=frozenset({"classification", "objectness"}),
    defaults={
        "number_of_epochs": 30,
        "training_batch_size": 16,
        "validation_batch_size": 16,
        "ema_decay": 0.9998,
        "learning_rate": 0.01,
        "box_score_threshold": 0.1,
    },
    models=(
        _yolox("nano", "cd28f55fbbc1829f99d9ac9b38a16d259a22889739c8728ea877610201feff7b"),
        _yolox("tiny", "9de513de589ac98bb92d3bca53b5af7b9acfa9b0bacb831f7999d0f7afaee8f0"),
        _yolox("s", "f55ded7181e1b0c13285c56e7790b8f0e8f8db590fe4edb37f0b7f345c913a30"),
        _yolox("m", "60076992b32da82951c90cfa7bd6ab70eba9eda243e08b940a396f60ac2d19b6"),
        _yolox("l", "1e6b7fa6240375370b2a8a8eab9066b3cdd43fd1d0bfa8d2027fd3a51def2917"),
        _yolox("x", "5652330b6ae860043f091b8f550a60c10e1129f416edfdb65c259be6caf355cf"),
    ),
)

YOLOX_MASKS = ModelFamily(
    name="maskyolox",
    pattern="maskyolox_*",
    builder="tilewise.models.yolox_masks:build_yolox_masks",
    scaling="square",
    classification_losses=YOLOX.classification_losses,
    defaults=YOLOX.defaults,
    tasks=("instance_segmentation",),
    models=tuple(replace(model, name=f"mask{model.name}") for model in YOLOX.models),
)

FAMILIES = (SSD, FASTER_RCNN, MASK_RCNN, RETINANET, FCOS, GFL, YOLOX, YOLOX_MASKS, *CLASSIFIERS)
