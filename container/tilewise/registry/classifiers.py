"""The families of models that say what an image as a whole shows, by Azure AutoML's names."""

from __future__ import annotations

from typing import Any

from tilewise.registry.backbones import RESNET_18, RESNET_34, RESNET_50, RESNET_101, RESNET_152
from tilewise.registry.family import Backbone, Model, ModelFamily, Weights

CLASSIFICATION, MULTILABEL = "classification", "multilabel_classification"
ONE_LABEL, SEVERAL_LABELS = "image_label", "image_labels"
"""Among the fields of the ground truth that a task learns from: an image has one label, or any number."""

_DEFAULTS = {
    "image_size": None,
    "training_crop_size": 224,
    "validation_crop_size": 224,
    "validation_resize_size": 256,
    "primary_metric": "accuracy",
    "training_views": "whole",
}


def _model(name: str, stages: tuple[tuple[str, ...], ...], *weights: Weights) -> Model:
    """A network below ``body``; in a file of weights its tensors have no such prefix."""
    backbone = Backbone(
        stages=tuple(tuple(f"body.{module}" for module in stage) for stage in stages),
        weights=weights,
        from_classifier="tilewise.models.classifier:below_body",
    )
    return Model(name, backbone=backbone)


def _family(
    name: str,
    pattern: str,
    *models: Model,
    batch: int = 78,
    rates: tuple[float, float] = (0.01, 0.035),
) -> ModelFamily:
    """With Azure's defaults: the batch size, and the learning rates for one label and for several."""
    defaults: dict[str, Any] = {"training_batch_size": batch, "validation_batch_size": batch}
    return ModelFamily(
        name=name,
        pattern=pattern,
        builder="tilewise.models.classifier:build_classifier",
        scaling="square",
        classification_losses=frozenset({"cross_entropy"}),
        defaults=_DEFAULTS | defaults | {"learning_rate": rates[0]},
        task_defaults={MULTILABEL: {"learning_rate": rates[1], "primary_metric": "iou"}},
        tasks=(CLASSIFICATION, MULTILABEL),
        models=models,
    )


_RESNET_STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
_VIT_STAGES = (("patch_embed",), *((f"blocks.{number}",) for number in range(12)))

CLASSIFIERS = (
    _family(
        "mobilenetv2",
        "mobilenetv2",
        _model(
            "mobilenetv2",
            tuple((f"features.{number}",) for number in range(19)),
            Weights("mobilenet_v2-7ebf99e0.pth"),
            Weights("mobilenet_v2-b0353104.pth"),
        ),
    ),
    _family(
        "resnet",
        "resnet[0-9]*",
        *(
            _model(f"resnet{depth}", _RESNET_STAGES, *backbone.weights)
            for depth, backbone in (
                (18, RESNET_18),
                (34, RESNET_34),
                (50, RESNET_50),
                (101, RESNET_101),
                (152, RESNET_152),
            )
        ),
        _model("resnet200", _RESNET_STAGES),
    ),
    _family(
        "resnest",
        "resnest*",
        _model("resnest50", (), Weights("resnest50-528c19ca.pth", "resnest")),
        _model("resnest101", (), Weights("resnest101-22405ba7.pth", "resnest")),
    ),
    _family(
        "seresnext",
        "seresnext",
        _model(
            "seresnext",
            tuple((f"layer{number}",) for number in range(5)),
            Weights("se_resnext50_32x4d-a260b3a4.pth", "pretrainedmodels"),
        ),
    ),
    _family("vits16r224", "vits*", _model("vits16r224", _VIT_STAGES), batch=128, rates=(0.0125, 0.025)),
    _family("vitb16r224", "vitb*", _model("vitb16r224", _VIT_STAGES), batch=48, rates=(0.0125, 0.025)),
    _family("vitl16r224", "vitl*", _model("vitl16r224", _VIT_STAGES), batch=10, rates=(0.001, 0.002)),
)
