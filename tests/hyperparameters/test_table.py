from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from raw_hyperparameters import BUILTIN
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.hyperparameters.models import PARTS_OF_RECIPES
from tilewise.hyperparameters.table import ROWS
from tilewise.registry import families, find_model

# name: default of an Azure job, of one with a YOLOX, of a built-in job.
DEFAULTS: dict[str, tuple[Any, Any, Any]] = {
    "task": ("detection", "detection", "detection"),
    "mask_pixel_score_threshold": (0.5, 0.5, 0.5),
    "max_number_of_polygon_points": (100, 100, 100),
    "export_as_image": (False, False, False),
    "image_type": ("jpg", "jpg", "jpg"),
    "training_crop_size": (None, None, None),
    "validation_resize_size": (None, None, None),
    "validation_crop_size": (None, None, None),
    "weighted_loss": (0, 0, 0),
    "top_k": (None, None, None),
    "objects_as": (None, None, None),
    "num_classes": (None, None, 2),
    "num_training_samples": (None, None, 500),
    "label_width": (None, None, None),
    "class_map": (None, None, None),
    "classes": ((), (), ()),
    "other_classes": ("drop", "drop", "drop"),
    "max_images": (None, None, None),
    "class_balance": (None, None, None),
    "class_balance_threshold": (None, None, None),
    "label_attribute": (None, None, None),
    "bands": (None, None, None),
    "pixel_range": (None, None, None),
    "number_of_epochs": (15, 30, 30),
    "minutes": (None, None, None),
    "ema_decay": (0, 0.9998, 0),
    "precision": ("auto", "auto", "auto"),
    "compile": (False, False, False),
    "training_batch_size": (2, 16, 32),
    "batch_unit": ("gpu", "gpu", "machine"),
    "validation_batch_size": (1, 16, 32),
    "gradient_accumulation_step": (1, 1, 1),
    "learning_rate": (0.005, 0.001, 0.001),
    "learning_rate_scheduler": ("warmup_cosine", "warmup_cosine", "step"),
    "step_lr_gamma": (0.5, 0.5, 0.1),
    "step_lr_step_size": (5, 5, None),
    "lr_scheduler_step": ((), (), ()),
    "warmup_cosine_lr_cycles": (0.45, 0.45, 0.45),
    "warmup_cosine_lr_warmup_epochs": (2, 2, 2),
    "optimizer": ("sgd", "adamw", "sgd"),
    "momentum": (0.9, 0.9, 0.9),
    "nesterov": (True, True, False),
    "weight_decay": (0.0001, 0.01, 0.0005),
    "beta1": (0.9, 0.9, 0.9),
    "beta2": (0.999, 0.999, 0.999),
    "ams_gradient": (False, False, False),
    "early_stopping": (True, True, False),
    "early_stopping_patience": (5, 5, 5),
    "early_stopping_delay": (5, 5, 10),
    "early_stopping_tolerance": (0, 0, 0),
    "evaluation_frequency": (1, 1, 1),
    "checkpoint_frequency": (None, None, None),
    "checkpoint_run_id": (None, None, None),
    "checkpoint_dataset_id": (None, None, None),
    "checkpoint_filename": (None, None, None),
    "primary_metric": ("mean_average_precision",) * 3,
    "validation_data_size": (0.2, 0.2, 0.2),
    "target_column_name": (None, None, None),
    "distributed": (None, None, None),
    "advanced_settings": (None, None, None),
    "log_training_metrics": (None, None, None),
    "log_validation_loss": (None, None, None),
    "enable_onnx_normalization": (None, None, None),
    "deterministic": (False, False, False),
    "stride_4_level": (False, False, False),
    "layers_to_freeze": (None, None, None),
    "freeze_layer_pattern": (None, None, None),
    "min_size": (600, None, None),
    "max_size": (1333, None, None),
    "image_size": (None, 640, 300),
    "model_size": (None, None, None),
    "multi_scale": (False, False, False),
    "random_windows": (True, "auto", True),
    "colour_changes": (True, "auto", True),
    "box_score_threshold": (0.3, 0.1, 0.01),
    "nms_iou_threshold": (0.5, 0.5, 0.45),
    "box_detections_per_image": (100, 100, 400),
    "tile_grid_size": (None, "auto", None),
    "training_views": ("whole", "grid", "whole"),
    "tile_size": (None, None, None),
    "smallest_object": (None, None, None),
    "tile_overlap_ratio": (0.25, 0.25, 0.25),
    "tile_merge": ("fragment", "fragment", "fragment"),
    "tta": ("none",) * 3,
    "chip_size": (512, None, None),
    "pyramid_scales": ((), (), ()),
    "pyramid_ranges": ((), (), ()),
    "negative_views_ratio": (0.33, 0.33, 0.33),
    "negative_views": ("background", "background", "background"),
    "min_box_visibility": (0.4, 0.4, 0.4),
    "copy_paste": (False,) * 3,
    "copy_paste_repeats": (1,) * 3,
    "copy_paste_times": (1,) * 3,
    "copy_paste_max_size": (32.0,) * 3,
    "copy_paste_source": ("image",) * 3,
    "copy_paste_balance": (False,) * 3,
    "small_object_loss_factor": (1.0,) * 3,
    "size_loss_exponent": (0.0,) * 3,
    "assignment": ("default",) * 3,
    "orientation": ("upright",) * 3,
    "vertical_flip": (False,) * 3,
    "quarter_turns": (False,) * 3,
    "rotation": (0.0,) * 3,
    "shear": (0.0,) * 3,
    "degradation": (0.0,) * 3,
    "mosaic": (0.0,) * 3,
    "mixup": (0.0,) * 3,
    "plain_epochs": (None,) * 3,
    "max_gradient_norm": (10.0,) * 3,
    "backbone_learning_rate_factor": (1.0,) * 3,
    "warmup_steps": (None,) * 3,
    "distillation_maps": ("neck",) * 3,
    "distillation_temperature": (1.0,) * 3,
    "distillation_weight": (5.0,) * 3,
    "tile_predictions_nms_threshold": (0.25, 0.25, 0.25),
    "validation_metric_type": ("voc", "voc", "voc"),
    "validation_iou_threshold": (0.5, 0.5, 0.5),
    "use_pretrained_model": (True, True, True),
    "kv_store": (None, None, "dist_sync"),
    "seed": (0, 0, 0),
    "num_workers": (None, None, None),
    "model_name": ("fasterrcnn_resnet50_fpn", "yolox_s", "ssd_vgg16"),
    "dialect": ("azure", "azure", "builtin"),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults__of_the_three_presets(name: str) -> None:
    jobs: tuple[dict[str, str], ...] = ({}, {"model_name": "yolox_s"}, BUILTIN)
    parsed = tuple(getattr(parse_hyperparameters(raw), name) for raw in jobs)
    assert parsed == DEFAULTS[name]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {"optimizer", "learning_rate", "weight_decay", "tile_grid_size"}),
        ({"learning_rate": "0.01"}, {"tile_grid_size"}),
        ({"optimizer": "adamw"}, {"tile_grid_size"}),
        ({"weight_decay": "0.05"}, {"optimizer", "learning_rate", "tile_grid_size"}),
        ({"training_views": "whole"}, {"optimizer", "learning_rate", "weight_decay"}),
        ({"tile_size": "200", "learning_rate": "0.1"}, set()),
    ],
)
@pytest.mark.parametrize("model", ["yolox_tiny", "gfl_resnet18_fpn", "ssdlite_mobilenet_v3_large"])
def test_defaults__of_models_that_neither_dialect_has(
    model: str, given: dict[str, str], kept: set[str]
) -> None:
    recipe = find_model(model).recipe
    values = parse_hyperparameters({"model_name": model, **given}).model_dump()
    always = {"random_windows", "colour_changes"}
    found = {name for name, value in recipe.items() if values[name] == value}
    assert found - given.keys() == (kept | always) & recipe.keys() - given.keys()
    assert "optimizer" in recipe or values["optimizer"] == given.get("optimizer", "sgd")


def test_defaults__of_azures_yolov5_are_azures() -> None:
    hp = parse_hyperparameters({"model_name": "yolov5"})
    assert (hp.optimizer, hp.learning_rate, hp.tile_grid_size) == ("sgd", 0.01, None)


def test_defaults__recipes_have_no_part_that_stays_where_a_job_chooses() -> None:
    parts = [name for _, names in PARTS_OF_RECIPES for name in names]
    recipes = [model.recipe for family in families() for model in family.models]
    assert {name for recipe in recipes for name in recipe} == set(parts)


def test_defaults__cover_the_table() -> None:
    assert set(DEFAULTS) == set(Hyperparameters.model_fields) - {"given"}


def test_table__every_field_but_three_has_a_row() -> None:
    assert set(Hyperparameters.model_fields) - set(ROWS) == {"dialect", "batch_unit", "given"}


def test_table__written_names_are_unique() -> None:
    aliases = [row.alias for name, row in ROWS.items() if row.alias and row.alias != name]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(ROWS)


def test_hyperparameters__are_frozen() -> None:
    with pytest.raises(ValidationError):
        parse_hyperparameters({}).seed = 1


def test_hyperparameters__refuse_unknown_fields() -> None:
    with pytest.raises(ValidationError):
        Hyperparameters.model_validate(parse_hyperparameters({}).model_dump() | {"colour": "blue"})
