from __future__ import annotations

import pytest
from raw_hyperparameters import BUILTIN, problems
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.hyperparameters.table import AZURE_OTHER_NAMES


@pytest.mark.parametrize(
    ("alias", "text", "name", "value"),
    [
        ("epochs", "3", "number_of_epochs", 3),
        ("mini_batch_size", "8", "training_batch_size", 8),
        ("image_shape", "512", "image_size", 512),
        ("base_network", "vgg-16", "model_name", "ssd_vgg16"),
        ("lr_scheduler_factor", "0.2", "step_lr_gamma", 0.2),
        ("nms_threshold", "0.3", "nms_iou_threshold", 0.3),
        ("nms_topk", "200", "box_detections_per_image", 200),
        ("overlap_threshold", "0.75", "validation_iou_threshold", 0.75),
        ("early_stopping_min_epochs", "4", "early_stopping_delay", 4),
    ],
)
def test_alias__is_read_as_the_canonical_name(alias: str, text: str, name: str, value: object) -> None:
    parsed = parse_hyperparameters(BUILTIN | {alias: text})
    assert getattr(parsed, name) == value
    assert alias in parsed.given


OTHER_NAMES = {
    "amsgrad": ("True", True, "0"),
    "box_detections_per_img": ("7", 7, "8"),
    "box_nms_thresh": ("0.4", 0.4, "0.9"),
    "box_score_thresh": ("0.4", 0.4, "0.9"),
    "grad_accumulation_step": ("2", 2, "4"),
    "img_size": ("512", 512, "640"),
    "lr_scheduler": ("step", "step", "warmup_cosine"),
    "nms_iou_thresh": ("0.4", 0.4, "0.9"),
    "number_of_workers": ("3", 3, "4"),
    "random_seed": ("7", 7, "8"),
    "tile_predictions_nms_thresh": ("0.4", 0.4, "0.9"),
    "train_crop_size": ("96", 96, "128"),
    "valid_crop_size": ("96", 96, "128"),
    "valid_resize_size": ("288", 288, "320"),
    "validation_size": ("0.4", 0.4, "0.9"),
}
"""Azure's other name -> a value as text and as read, and another one."""


@pytest.mark.parametrize("other", AZURE_OTHER_NAMES)
def test_alias__azures_other_names(other: str) -> None:
    name, (text, value, different) = AZURE_OTHER_NAMES[other], OTHER_NAMES[other]
    extra = {"tile_grid_size": "3x2", "model_name": "yolox_s"}
    if name.endswith(("_crop_size", "_resize_size")):
        extra = {"model_name": "resnet18"}
    assert getattr(parse_hyperparameters({other: text, **extra}), name) == value
    with pytest.raises(UserError, match=name):
        parse_hyperparameters({other: text, name: different, **extra})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("optimizer", "Sgd", "sgd"),
        ("optimizer", "Adamw", "adamw"),
        ("optimizer", "None", "sgd"),
        ("learning_rate_scheduler", "WarmupCosine", "warmup_cosine"),
        ("learning_rate_scheduler", "None", "warmup_cosine"),
        ("validation_metric_type", "CocoVoc", "coco_voc"),
        ("validation_metric_type", "None", "none"),
        ("primary_metric", "MeanAveragePrecision", "mean_average_precision"),
        ("log_training_metrics", "Enable", "enable"),
        ("kv_store", "DIST-SYNC", "dist_sync"),
    ],
)
def test_values__as_azures_rest_interface_spells_them(name: str, text: str, value: str) -> None:
    assert getattr(parse_hyperparameters({name: text}), name) == value


@pytest.mark.parametrize(
    ("size", "model"),
    [
        ("ExtraLarge", "yolox_x"),
        ("extra_large", "yolox_x"),
        ("xlarge", "yolox_x"),
        ("XLarge", "yolox_x"),
        ("Small", "yolox_s"),
        ("None", "yolox_m"),
    ],
)
def test_values__sizes_of_yolov5(size: str, model: str) -> None:
    parsed = parse_hyperparameters({"model_name": "YOLOv5", "model_size": size})
    assert (parsed.model_name, parsed.azure_yolov5) == (model, True)
    assert not parse_hyperparameters({"model_name": model}).azure_yolov5


def test_alias__in_an_azure_job() -> None:
    parsed = parse_hyperparameters({"epochs": "3", "mini_batch_size": "8"})
    assert (parsed.number_of_epochs, parsed.training_batch_size, parsed.batch_unit) == (3, 8, "machine")


def test_alias__same_value_under_both_names() -> None:
    parsed = parse_hyperparameters({"epochs": "3", "number_of_epochs": "3.0"})
    assert parsed.number_of_epochs == 3


def test_alias__different_values_under_both_names() -> None:
    assert problems({"epochs": "3", "number_of_epochs": "4"}) == (
        "epochs=3 and number_of_epochs=4 disagree: give one of them"
    )


def test_alias__model_and_base_network_disagree() -> None:
    assert problems({"model_name": "fcos_resnet50_fpn", "base_network": "vgg-16"}) == (
        "model_name='fcos_resnet50_fpn' and base_network='vgg-16' disagree: give one of them"
    )


def test_alias__image_shape_has_its_own_range() -> None:
    assert (
        problems(BUILTIN | {"image_shape": "299"}) == "image_shape=299: must be a whole number, at least 300"
    )
    assert parse_hyperparameters(BUILTIN | {"image_size": "299"}).image_size == 299


def test_names__of_the_platform_are_passed_over() -> None:
    raw = {"_kvstore": "device", "sagemaker_program": "train.py", "_tuning_objective_metric": ""}
    assert parse_hyperparameters(raw) == parse_hyperparameters({})


def test_names__given_in_the_order_of_the_user() -> None:
    parsed = parse_hyperparameters({"seed": "1", "epochs": "2", "momentum": "", "layers_to_freeze": "none"})
    assert parsed.given == ("seed", "epochs")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"leaning_rate": "0.1"},
            "leaning_rate=0.1: unknown hyperparameter (did you mean learning_rate, learning_rate_scheduler?)",
        ),
        ({"Epochs": "3"}, "Epochs=3: unknown hyperparameter (did you mean epochs, plain_epochs?)"),
        ({"xyzzy": "a"}, "xyzzy='a': unknown hyperparameter; leave it out"),
        ({"lr0": "0.01"}, "lr0=0.01: unknown hyperparameter: it is learning_rate here"),
        ({"imgsz": "640"}, "imgsz=640: unknown hyperparameter: it is image_size here"),
    ],
)
def test_names__unknown(raw: dict[str, str], message: str) -> None:
    assert problems(raw) == message
