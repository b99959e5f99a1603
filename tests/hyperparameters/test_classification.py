from __future__ import annotations

import pytest
from raw_hyperparameters import problems
from tilewise.hyperparameters import parse_hyperparameters

BUILTIN = {"num_classes": "2", "num_training_samples": "500", "num_layers": "18"}


@pytest.mark.parametrize(
    ("raw", "task"),
    [
        ({"task": "image_classification"}, "classification"),
        ({"task": "image-classification-multilabel"}, "multilabel_classification"),
        ({"task": "classification", "multi_label": "1", **BUILTIN}, "multilabel_classification"),
        ({"model_name": "vitb16r224"}, "classification"),
        (BUILTIN, "classification"),
        (BUILTIN | {"multi_label": "1"}, "multilabel_classification"),
        ({"image_shape": "3,224,224", "num_classes": "2", "num_training_samples": "5"}, "classification"),
        ({"image_shape": "512", "num_classes": "2", "num_training_samples": "5"}, "detection"),
    ],
)
def test_task__by_its_name_or_by_signs(raw: dict[str, str], task: str) -> None:
    assert parse_hyperparameters(raw).task == task


@pytest.mark.parametrize(
    ("model", "batch", "one", "several"),
    [
        ("seresnext", 78, 0.01, 0.035),
        ("mobilenetv2", 78, 0.01, 0.035),
        ("vits16r224", 128, 0.0125, 0.025),
        ("vitb16r224", 48, 0.0125, 0.025),
        ("vitl16r224", 10, 0.001, 0.002),
    ],
)
def test_defaults__are_azures_by_model(model: str, batch: int, one: float, several: float) -> None:
    hp = parse_hyperparameters({"task": "image_classification", "model_name": model})
    assert (hp.training_batch_size, hp.learning_rate, hp.primary_metric) == (batch, one, "accuracy")
    assert (hp.training_crop_size, hp.validation_crop_size, hp.validation_resize_size) == (224, 224, 256)
    hp = parse_hyperparameters({"task": "image_classification_multilabel", "model_name": model})
    assert (hp.learning_rate, hp.primary_metric, hp.weighted_loss) == (several, "iou", 0)


def test_default_model__is_azures() -> None:
    assert parse_hyperparameters({"task": "image-classification"}).model_name == "seresnext"


def test_builtin__its_defaults() -> None:
    hp = parse_hyperparameters({"num_classes": "2", "num_training_samples": "500", "top_k": "2"})
    assert (hp.model_name, hp.training_crop_size, hp.number_of_epochs) == ("resnet152", 224, 30)
    assert (hp.learning_rate, hp.momentum, hp.weight_decay, hp.nesterov) == (0.1, 0.9, 1e-4, False)
    assert (hp.learning_rate_scheduler, hp.step_lr_step_size, hp.step_lr_gamma) == ("step", 0, 0.1)
    assert (hp.training_batch_size, hp.validation_batch_size, hp.batch_unit) == (32, 32, "machine")
    assert (hp.early_stopping, hp.use_pretrained_model, hp.random_windows) == (False, False, False)
    assert hp.top_k == 2 and hp.given == ("num_classes", "num_training_samples", "top_k")


def test_builtin__a_job_in_its_words() -> None:
    raw = BUILTIN | {
        "image_shape": "3,112,112",
        "resize": "128",
        "use_pretrained_model": "1",
        "use_weighted_loss": "1",
        "augmentation_type": "crop_color_transform",
        "mini_batch_size": "8",
        "epochs": "2",
        "lr_scheduler_step": "1,2",
        "optimizer": "nag",
        "precision_dtype": "float32",
        "beta_1": "0.8",
        "eps": "1e-8",
        "checkpoint_frequency": "1",
        "kv_store": "dist_sync",
    }
    hp = parse_hyperparameters(raw)
    assert (hp.model_name, hp.training_crop_size, hp.validation_resize_size) == ("resnet18", 112, 128)
    assert (hp.optimizer, hp.nesterov, hp.beta1, hp.precision) == ("sgd", True, 0.8, "fp32")
    assert (hp.weighted_loss, hp.use_pretrained_model, hp.random_windows) == (2, True, True)
    assert (hp.rotation, hp.shear) == (10, 5.71)
    assert (hp.lr_scheduler_step, hp.training_batch_size, hp.validation_batch_size) == ((1, 2), 8, 8)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"num_layers": "20"},
            "num_layers=20: networks for images of 28 pixels are not built here; take num_",
        ),
        ({"num_layers": "19"}, "num_layers=19: num_layers is one of 18, 34, 50, 101, 152, 200"),
        ({"image_shape": "1,28,28"}, "image_shape=1,28,28: models see three channels"),
        ({"image_shape": "224"}, "image_shape=224: give channels, height and width, such as 3,224,224"),
        ({"augmentation_type": "mirror"}, "augmentation_type=mirror: must be one of crop, crop_color, crop"),
        ({"optimizer": "adamw"}, "optimizer=adamw: must be one of sgd, adam, rmsprop, nag"),
        ({"gamma": "0.8"}, "gamma=0.8: it is always 0.9 here; leave it out"),
        ({"multi_label": "yes"}, "multi_label=yes: must be 0 or 1"),
        ({"top_k": "1"}, "top_k=1: must be a whole number, at least 2"),
        ({"num_classes": ""}, "num_classes is required in a job with the built-in Image Classification"),
    ],
)
def test_builtin__wrong_values(raw: dict[str, str], message: str) -> None:
    assert problems(BUILTIN | raw).startswith(message)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"training_views": "grid"},
            "training_views='grid' has no effect with task=classification, which ha",
        ),
        ({"tile_grid_size": "auto"}, "tile_grid_size='auto': a grid is chosen by the sizes of objects, and"),
        ({"tile_overlap_ratio": "0.5"}, "tile_overlap_ratio=0.5: there are no tiles; give tile_grid_size o"),
        ({"objects_as": "crops", "bands": "3,2,1"}, "bands='3,2,1': objects that are cut out are kept in 8"),
        ({"image_size": "320"}, "image_size=320 has no effect with task=classification"),
        ({"mosaic": "0.5"}, "mosaic=0.5 has no effect with task=classification"),
        ({"box_score_threshold": "0.5"}, "box_score_threshold=0.5 has no effect with task=classification"),
        ({"validation_metric_type": "coco"}, "validation_metric_type='coco' is of boxes: with task=classif"),
        (
            {"primary_metric": "AP"},
            "primary_metric='AP': with task=classification it must be one of accuracy,",
        ),
        ({"primary_metric": "iou"}, "primary_metric='iou': with task=classification it must be one of accur"),
        (
            {"validation_resize_size": "200"},
            "validation_resize_size=200 is less than validation_crop_size=224",
        ),
        (
            {"mask_pixel_score_threshold": "0.4"},
            "mask_pixel_score_threshold=0.4: applies only to task=instan",
        ),
        ({"training_crop_size": "230"}, "training_crop_size=230: seresnext takes a multiple of 32, and"),
        (
            {"model_name": "vits16r224", "training_crop_size": "192"},
            "training_crop_size=192 and validation_crop_size=224 must be equal: vits16r224 sees one size",
        ),
        (
            {"model_name": "yolox_s"},
            "model_name='yolox_s' is a model for task=detection; available here: mobilenetv2, resnet18,",
        ),
    ],
)
def test_azure__what_does_not_go_together(raw: dict[str, str], message: str) -> None:
    assert problems({"task": "classification"} | raw).startswith(message)


def test_top_k__of_a_job_that_names_its_task_is_no_sign_of_the_built_in_one() -> None:
    hp = parse_hyperparameters({"task": "classification", "top_k": "3"})
    assert (hp.top_k, hp.model_name, hp.training_batch_size) == (3, "seresnext", 78)


def test_tiles__are_for_validation_and_serving() -> None:
    hp = parse_hyperparameters({"task": "classification", "tile_grid_size": "3x2", "tile_overlap_ratio": "0"})
    assert (hp.tile_grid_size, hp.tile_overlap_ratio, hp.training_views) == ((3, 2), 0, "whole")


def test_other_tasks__take_nothing_of_it() -> None:
    assert problems({"weighted_loss": "1"}) == (
        "weighted_loss=1: applies only to task=classification; leave it out"
    )
    assert problems({"primary_metric": "accuracy"}) == (
        "primary_metric='accuracy' is a figure of task=classification; leave it out"
    )
