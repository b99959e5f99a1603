from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters, as_markdown, parse_hyperparameters
from tilewise.hyperparameters.models import LATER_MODELS
from tilewise.hyperparameters.table import AZURE_SHORT_NAMES, ROWS
from tilewise.hyperparameters.values import shown
from tilewise.registry import model_names

DOCS = Path(__file__).parents[1] / "docs" / "hyperparameters.md"

BUILTIN = {"num_classes": "2", "num_training_samples": "500"}

# name: default of an Azure job, of one with a YOLOX, of a built-in job.
DEFAULTS: dict[str, tuple[Any, Any, Any]] = {
    "task": ("detection", "detection", "detection"),
    "num_classes": (None, None, 2),
    "num_training_samples": (None, None, 500),
    "label_width": (None, None, None),
    "class_map": (None, None, None),
    "number_of_epochs": (15, 30, 30),
    "ema_decay": (0, 0.9998, 0),
    "precision": ("auto", "auto", "auto"),
    "compile": (False, False, False),
    "training_batch_size": (2, 16, 32),
    "batch_unit": ("gpu", "gpu", "machine"),
    "validation_batch_size": (1, 16, 32),
    "gradient_accumulation_step": (1, 1, 1),
    "learning_rate": (0.005, 0.01, 0.001),
    "learning_rate_scheduler": ("warmup_cosine", "warmup_cosine", "step"),
    "step_lr_gamma": (0.5, 0.5, 0.1),
    "step_lr_step_size": (5, 5, None),
    "lr_scheduler_step": ((), (), ()),
    "warmup_cosine_lr_cycles": (0.45, 0.45, 0.45),
    "warmup_cosine_lr_warmup_epochs": (2, 2, 2),
    "optimizer": ("sgd", "sgd", "sgd"),
    "momentum": (0.9, 0.9, 0.9),
    "nesterov": (True, True, False),
    "weight_decay": (1e-4, 1e-4, 5e-4),
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
    "deterministic": (False, False, False),
    "stride_4_level": (False, False, False),
    "layers_to_freeze": (None, None, None),
    "freeze_layer_pattern": (None, None, None),
    "min_size": (600, None, None),
    "max_size": (1333, None, None),
    "image_size": (None, 640, 300),
    "model_size": (None, None, None),
    "multi_scale": (False, False, False),
    "random_windows": (True, True, True),
    "box_score_threshold": (0.3, 0.1, 0.01),
    "nms_iou_threshold": (0.5, 0.5, 0.45),
    "box_detections_per_image": (100, 100, 400),
    "tile_grid_size": (None, None, None),
    "training_views": ("whole", "whole", "whole"),
    "tile_size": (None, None, None),
    "tile_overlap_ratio": (0.25, 0.25, 0.25),
    "tile_merge": ("fragment", "fragment", "fragment"),
    "chip_size": (512, None, None),
    "pyramid_scales": ((), (), ()),
    "pyramid_ranges": ((), (), ()),
    "negative_views_ratio": (0.33, 0.33, 0.33),
    "negative_views": ("background", "background", "background"),
    "min_box_visibility": (0.4, 0.4, 0.4),
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

# Texts that parse, with a value that differs from every default.
VALID = {
    "num_classes": "7",
    "class_map": '{"0": "a", "1": "b", "2": "c", "3": "d", "5": "e", "6": "f", "9": "g"}',
    "num_training_samples": "11",
    "label_width": "350",
    "number_of_epochs": "3",
    "training_batch_size": "8",
    "ema_decay": "0.99",
    "precision": "bf16",
    "validation_batch_size": "6",
    "gradient_accumulation_step": "4",
    "learning_rate": "0.02",
    "step_lr_gamma": "0.3",
    "step_lr_step_size": "4",
    "warmup_cosine_lr_cycles": "0.4",
    "warmup_cosine_lr_warmup_epochs": "3",
    "optimizer": "adamw",
    "momentum": "0.8",
    "nesterov": "false",
    "weight_decay": "0.01",
    "beta1": "0.8",
    "beta2": "0.99",
    "ams_gradient": "true",
    "early_stopping": "false",
    "early_stopping_patience": "3",
    "early_stopping_delay": "2",
    "early_stopping_tolerance": "0.01",
    "evaluation_frequency": "2",
    "min_size": "700",
    "max_size": "900",
    "box_score_threshold": "0.2",
    "nms_iou_threshold": "0.6",
    "box_detections_per_image": "300",
    "multi_scale": "1",
    "random_windows": "0",
    "tile_grid_size": "3x2",
    "tile_overlap_ratio": "0.1",
    "tile_merge": "nms",
    "tile_predictions_nms_threshold": "0.4",
    "min_box_visibility": "0.2",
    "validation_metric_type": "coco_voc",
    "validation_iou_threshold": "0.6",
    "use_pretrained_model": "false",
    "kv_store": "dist_async",
    "seed": "13",
    "num_workers": "4",
    "model_name": "fcos_resnet50_fpn",
    "learning_rate_scheduler": "step",
    "stride_4_level": "1",
    "layers_to_freeze": "2",
    "freeze_layer_pattern": "^(conv1_|conv2_).*",
}


def problems(raw: Mapping[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        parse_hyperparameters(raw)
    return str(caught.value)


# Tasks


@pytest.mark.parametrize(
    "written",
    ["detection", "image-object-detection", "image_object_detection", "Object-Detection", '"detection"', ""],
)
def test_task__detection_in_all_its_spellings(written: str) -> None:
    assert parse_hyperparameters({"task": written}).task == "detection"


@pytest.mark.parametrize(
    ("raw", "start"),
    [
        (
            {"task": "image_instance_segmentation"},
            "task=image_instance_segmentation asks for instance segmentation,",
        ),
        ({"task": "image-classification"}, "task=image-classification asks for image classification,"),
        ({"num_layers": 18}, "num_layers=18 asks for image classification,"),
        ({"image_shape": "3,224,224"}, "image_shape=3,224,224 asks for image classification,"),
        (BUILTIN | {"top_k": "5", "num_classes": "none"}, "top_k=5 asks for image classification,"),
    ],
)
def test_task__another_one_is_refused_before_the_table_is_read(raw: dict[str, object], start: str) -> None:
    message = problems(raw)
    assert message.startswith(start) and "which this version cannot train yet" in message
    assert ";" not in message


def test_task__unknown() -> None:
    assert problems({"task": "forecasting", "epochs": "x"}).startswith(
        "task=forecasting: there is no such task"
    )


def test_task__that_is_given_counts_more_than_signs() -> None:
    assert "num_layers=18: unknown hyperparameter" in problems({"task": "detection", "num_layers": "18"})


# Defaults


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults__of_the_three_presets(name: str) -> None:
    jobs: tuple[dict[str, str], ...] = ({}, {"model_name": "yolox_s"}, BUILTIN)
    parsed = tuple(getattr(parse_hyperparameters(raw), name) for raw in jobs)
    assert parsed == DEFAULTS[name]


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


@pytest.mark.parametrize(
    "raw", [{}, BUILTIN, BUILTIN | {"lr_scheduler_step": "20,30", "seed": "3"}, VALID, {"num_workers": "0"}]
)
def test_hyperparameters__round_trip_through_json(raw: dict[str, str]) -> None:
    parsed = parse_hyperparameters(raw)
    text = json.dumps(parsed.model_dump(mode="json"))
    assert Hyperparameters.model_validate(json.loads(text)) == parsed


# Real jobs


def test_job__built_in_sample_of_aws() -> None:
    parsed = parse_hyperparameters(
        {
            "base_network": "vgg-16",
            "use_pretrained_model": "1",
            "num_classes": "20",
            "mini_batch_size": "32",
            "epochs": "100",
            "learning_rate": "0.001",
            "lr_scheduler_step": "33, 67",
            "lr_scheduler_factor": "0.1",
            "optimizer": "sgd",
            "momentum": "0.9",
            "weight_decay": "0.0005",
            "overlap_threshold": "0.5",
            "nms_threshold": "0.45",
            "image_shape": "512",
            "label_width": "350",
            "num_training_samples": "16551",
            "freeze_layer_pattern": "false",
            "early_stopping": "True",
            "early_stopping_min_epochs": "12",
            "early_stopping_patience": "4",
            "early_stopping_tolerance": "0.0",
            "kv_store": "dist_sync",
            "_tuning_objective_metric": "validation:mAP",
        }
    )
    assert (parsed.dialect, parsed.model_name, parsed.image_size) == ("builtin", "ssd_vgg16", 512)
    assert (parsed.number_of_epochs, parsed.lr_scheduler_step, parsed.step_lr_gamma) == (100, (33, 67), 0.1)
    assert (parsed.learning_rate_scheduler, parsed.step_lr_step_size) == ("step", None)
    assert (parsed.training_batch_size, parsed.validation_batch_size) == (32, 32)
    assert parsed.batch_unit == "machine"
    assert (parsed.num_classes, parsed.num_training_samples, parsed.label_width) == (20, 16551, 350)
    assert parsed.early_stopping is True
    assert (parsed.early_stopping_delay, parsed.early_stopping_patience) == (12, 4)
    assert "base_network" in parsed.given
    assert "_tuning_objective_metric" not in parsed.given


def test_job__azure_sample() -> None:
    parsed = parse_hyperparameters(
        {
            "model_name": "fasterrcnn_resnet50_fpn",
            "number_of_epochs": "15",
            "optimizer": "sgd",
            "learning_rate": "0.005",
            "learning_rate_scheduler": "warmup_cosine",
            "warmup_cosine_lr_cycles": "0.45",
            "warmup_cosine_lr_warmup_epochs": "2",
            "nesterov": "1",
            "min_size": "800",
            "max_size": "1333",
            "box_score_threshold": "0.3",
            "training_batch_size": "4",
            "validation_batch_size": "2",
            "tile_grid_size": "None",
            "validation_metric_type": "coco",
            "checkpoint_frequency": "",
        }
    )
    assert (parsed.dialect, parsed.model_name, parsed.image_size) == (
        "azure",
        "fasterrcnn_resnet50_fpn",
        None,
    )
    assert (parsed.min_size, parsed.max_size) == (800, 1333)
    assert (parsed.training_batch_size, parsed.batch_unit) == (4, "gpu")
    assert (parsed.validation_batch_size, parsed.validation_metric_type) == (2, "coco")
    assert "tile_grid_size" not in parsed.given


@pytest.mark.parametrize(
    "written",
    ['{"5": "cat", "0": "dog"}', {"5": "cat", "0": "dog"}, '"{\\"5\\": \\"cat\\", \\"0\\": \\"dog\\"}"'],
)
def test_class_map__in_the_order_of_the_ids(written: object) -> None:
    parsed = parse_hyperparameters({"class_map": written})
    assert list((parsed.class_map or {}).items()) == [(0, "dog"), (5, "cat")]


@pytest.mark.parametrize(
    "written", ["[]", "{}", "{0: 'a'}", '{"x": "a"}', '{"-1": "a"}', '{"0": "a", "1": "a"}']
)
def test_class_map__no_map(written: str) -> None:
    message = "must be JSON text with a name of its own for each class id, such as"
    assert problems({"class_map": written}).startswith(f"class_map={shown(written)}: {message}")


def test_class_map__agrees_with_num_classes() -> None:
    assert problems({"num_classes": "3", "class_map": '{"0": "a", "7": "b"}'}) == (
        "class_map has 2 classes, but num_classes=3"
    )


def test_job__json_quoted_by_the_sdk() -> None:
    parsed = parse_hyperparameters(
        {
            "num_classes": "2",
            "num_training_samples": "500",
            "base_network": '"vgg-16"',
            "early_stopping": "true",
        }
    )
    assert (parsed.dialect, parsed.model_name, parsed.early_stopping) == ("builtin", "ssd_vgg16", True)


@pytest.mark.parametrize(
    ("raw", "job"),
    [
        ({}, "azure"),
        ({"num_classes": "2"}, "azure"),
        ({"epochs": "3", "mini_batch_size": "8"}, "azure"),
        (BUILTIN, "builtin"),
        (BUILTIN | {"base_network": "vgg-16"}, "builtin"),
        (BUILTIN | {"model_name": ""}, "builtin"),
        (BUILTIN | {"model_name": "ssd_vgg16"}, "azure"),
        ({"base_network": "", "num_training_samples": " "}, "azure"),
    ],
)
def test_job__dialect(raw: dict[str, str], job: str) -> None:
    assert parse_hyperparameters(raw).dialect == job


def test_job__model_name_beside_num_training_samples_has_azure_defaults() -> None:
    parsed = parse_hyperparameters(BUILTIN | {"model_name": "ssd_vgg16", "base_network": "vgg-16"})
    assert (parsed.image_size, parsed.learning_rate, parsed.num_training_samples) == (640, 0.005, 500)


def test_job__built_in_requires_num_classes() -> None:
    assert problems({"num_training_samples": "500"}) == (
        "num_classes is required in a job with num_training_samples and no model_name"
        " (one for the built-in algorithm)"
    )


def test_job__built_in_requires_num_training_samples() -> None:
    assert problems({"base_network": "vgg-16", "num_classes": "2", "num_training_samples": ""}) == (
        "num_training_samples is required in a job with base_network and no model_name"
        " (one for the built-in algorithm)"
    )


# Names


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


@pytest.mark.parametrize(("short", "name"), AZURE_SHORT_NAMES.items())
def test_alias__azures_older_names(short: str, name: str) -> None:
    text = "7" if name == "box_detections_per_image" else "0.4"
    extra = {"tile_grid_size": "3x2"}
    assert getattr(parse_hyperparameters({short: text, **extra}), name) == float(text)
    with pytest.raises(UserError, match=name):
        parse_hyperparameters({short: text, name: "0.9" if "." in text else "8", **extra})


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


@pytest.mark.parametrize(
    ("raw", "unit"),
    [
        ({"training_batch_size": "8"}, "gpu"),
        ({"mini_batch_size": "8"}, "machine"),
        ({"mini_batch_size": "8", "training_batch_size": "8"}, "machine"),
        (BUILTIN, "machine"),
        (BUILTIN | {"training_batch_size": "8"}, "gpu"),
    ],
)
def test_batch_unit__follows_the_name(raw: dict[str, str], unit: str) -> None:
    assert parse_hyperparameters(raw).batch_unit == unit


def test_validation_batch_size__as_training_in_a_built_in_job() -> None:
    assert parse_hyperparameters(BUILTIN | {"mini_batch_size": "8"}).validation_batch_size == 8
    raw = BUILTIN | {"mini_batch_size": "8", "validation_batch_size": "3"}
    assert parse_hyperparameters(raw).validation_batch_size == 3


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
        ({"Epochs": "3"}, "Epochs=3: unknown hyperparameter (did you mean epochs?)"),
        ({"xyzzy": "a"}, "xyzzy='a': unknown hyperparameter; leave it out"),
    ],
)
def test_names__unknown(raw: dict[str, str], message: str) -> None:
    assert problems(raw) == message


# Values


@pytest.mark.parametrize("text", ["1", "true", "True", "TRUE", '"true"', " true ", True, 1])
def test_flag__true(text: object) -> None:
    assert parse_hyperparameters({"ams_gradient": text}).ams_gradient is True


@pytest.mark.parametrize("text", ["0", "false", "False", '"False"', False, 0])
def test_flag__false(text: object) -> None:
    assert parse_hyperparameters({"nesterov": text}).nesterov is False


@pytest.mark.parametrize("text", ["yes", "on", "t", "2", "1.5", "none"])
def test_flag__nothing_else(text: str) -> None:
    assert problems({"nesterov": text}).endswith(": must be 0, 1, true or false")


@pytest.mark.parametrize("text", ["16", "16.0", " 16 ", '"16"', 16, 16.0])
def test_integer__as_text_or_integral_float(text: object) -> None:
    assert parse_hyperparameters({"number_of_epochs": text}).number_of_epochs == 16


@pytest.mark.parametrize("text", ["16.5", "0", "-1", "many", "inf", "1e", "0x10"])
def test_integer__refused(text: str) -> None:
    assert problems({"number_of_epochs": text}).endswith(": must be a whole number, at least 1")


@pytest.mark.parametrize("text", ["1e-3", "0.001", '"0.001"', 0.001])
def test_float__as_text_or_number(text: object) -> None:
    assert parse_hyperparameters({"learning_rate": text}).learning_rate == 0.001


@pytest.mark.parametrize("text", ["3", "0", "-0.1", "nan", "inf", "1e999"])
def test_float__refused(text: str) -> None:
    assert problems({"learning_rate": text}) == (
        f"learning_rate={text}: must be greater than 0 and at most 1"
    )


@pytest.mark.parametrize("name", ["tile_overlap_ratio", "validation_iou_threshold", "momentum"])
def test_float__ranges_have_their_own_ends(name: str) -> None:
    allowed = {
        "tile_overlap_ratio": "at least 0 and less than 1",
        "validation_iou_threshold": "at least 0.1 and at most 1",
        "momentum": "at least 0 and at most 1",
    }
    assert problems({name: "1.5"}) == f"{name}=1.5: must be {allowed[name]}"


def test_choice__lists_the_choices_and_the_nearest() -> None:
    assert problems({"optimizer": "Adamm"}) == (
        "optimizer='Adamm': must be one of sgd, adam, adamw, rmsprop, adadelta (did you mean adam?)"
    )


@pytest.mark.parametrize("empty", ["", "  ", '""', None])
def test_value__empty_is_not_given(empty: str | None) -> None:
    names = [*ROWS, *(row.alias for row in ROWS.values() if row.alias)]
    assert parse_hyperparameters(dict.fromkeys(names, empty)) == parse_hyperparameters({})


@pytest.mark.parametrize("name", ["layers_to_freeze", "freeze_layer_pattern"])
@pytest.mark.parametrize("text", ["none", "", "null"])
def test_freezing__none(name: str, text: str) -> None:
    assert getattr(parse_hyperparameters({name: text}), name) is None


@pytest.mark.parametrize("text", ["false", "False"])
def test_freeze_layer_pattern__false_as_the_console_sends_it(text: str) -> None:
    assert parse_hyperparameters({"freeze_layer_pattern": text}).freeze_layer_pattern is None


@pytest.mark.parametrize("text", ["(", "*a", "[a"])
def test_freeze_layer_pattern__no_regular_expression(text: str) -> None:
    assert problems({"freeze_layer_pattern": text}) == (
        f"freeze_layer_pattern='{text}': must be a regular expression"
    )


@pytest.mark.parametrize("text", ["none", "None", "NONE", '"none"', "null"])
def test_value__none_for_an_optional_one(text: str) -> None:
    assert parse_hyperparameters({"tile_grid_size": text, "num_classes": text}).num_classes is None


def test_value__none_is_a_metric_type() -> None:
    assert parse_hyperparameters({"validation_metric_type": "None"}).validation_metric_type == "none"


def test_value__a_long_one_is_cut() -> None:
    assert len(problems({"optimizer": "x" * 2500})) < 200


def test_value__an_open_quote_is_text() -> None:
    assert problems({"optimizer": '"sgd'}).startswith("optimizer='\"sgd': must be one of sgd")


@pytest.mark.parametrize(("text", "workers"), [("auto", None), ("Auto", None), ("0", 0), ("4", 4)])
def test_num_workers__number_or_auto(text: str, workers: int | None) -> None:
    assert parse_hyperparameters({"num_workers": text}).num_workers == workers


def test_seed__fits_in_32_bits() -> None:
    assert parse_hyperparameters({"seed": "4294967295"}).seed == 4294967295
    assert problems({"seed": "4294967296"}) == (
        "seed=4294967296: must be a whole number, at least 0 and less than 4294967296"
    )


# Schedules


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("33, 67", (33, 67)),
        ("20,30", (20, 30)),
        ("10", (10,)),
        ("[5, 6]", (5, 6)),
        ([5, 6], (5, 6)),
        ("", ()),
    ],
)
def test_lr_scheduler_step__forms(text: object, steps: tuple[int, ...]) -> None:
    parsed = parse_hyperparameters(BUILTIN | {"lr_scheduler_step": text})
    assert (parsed.learning_rate_scheduler, parsed.lr_scheduler_step) == ("step", steps)
    assert parsed.step_lr_step_size is None


@pytest.mark.parametrize("text", ["30,20", "20,20", "0,5", "-1", "a", "1,,2", "1.5"])
def test_lr_scheduler_step__refused(text: str) -> None:
    assert problems({"lr_scheduler_step": text}).endswith(": must be increasing epochs from 1, such as 20,30")


def test_lr_scheduler_step__switches_an_azure_job_to_steps() -> None:
    parsed = parse_hyperparameters({"lr_scheduler_step": "20,30"})
    assert (parsed.learning_rate_scheduler, parsed.lr_scheduler_step) == ("step", (20, 30))
    assert (parsed.step_lr_step_size, parsed.step_lr_gamma) == (None, 0.5)


@pytest.mark.parametrize(
    ("name", "text"), [("learning_rate_scheduler", "'warmup_cosine'"), ("step_lr_step_size", "5")]
)
def test_lr_scheduler_step__beside_another_schedule(name: str, text: str) -> None:
    assert problems({"lr_scheduler_step": "20,30", name: text.strip("'")}) == (
        f"lr_scheduler_step='20,30' and {name}={text} disagree: give one of them"
    )


def test_learning_rate_scheduler__constant_in_a_plain_built_in_job() -> None:
    parsed = parse_hyperparameters(BUILTIN)
    assert (parsed.learning_rate_scheduler, parsed.lr_scheduler_step) == ("step", ())
    assert parsed.step_lr_step_size is None


def test_learning_rate_scheduler__step_size_in_a_built_in_job() -> None:
    parsed = parse_hyperparameters(BUILTIN | {"step_lr_step_size": "4"})
    assert (parsed.learning_rate_scheduler, parsed.step_lr_step_size) == ("step", 4)


# Models


@pytest.mark.parametrize("model", model_names())
def test_model__available(model: str) -> None:
    parsed = parse_hyperparameters({"model_name": model})
    assert parsed.model_name == model
    assert (parsed.image_size is None) != (parsed.min_size is None)
    assert (parsed.min_size is None) == (parsed.max_size is None)


@pytest.mark.parametrize("model", LATER_MODELS)
def test_model__not_in_this_version(model: str) -> None:
    assert problems({"model_name": model}) == (
        f"model_name='{model}' is not available in this version; available: {', '.join(model_names())}"
    )


@pytest.mark.parametrize(("network", "model"), [("vgg-16", "ssd_vgg16"), ("resnet-50", "ssd_resnet50")])
def test_model__base_network(network: str, model: str) -> None:
    parsed = parse_hyperparameters(BUILTIN | {"base_network": network})
    assert (parsed.model_name, parsed.image_size, parsed.training_batch_size) == (model, 300, 32)


def test_model__base_network_unknown() -> None:
    assert problems(BUILTIN | {"base_network": "vgg16"}) == (
        "base_network='vgg16': must be one of vgg-16, resnet-50 (did you mean vgg-16?)"
    )


def test_model__unknown() -> None:
    assert problems({"model_name": "retinanet_resnet50", "min_size": "700"}).startswith(
        "model_name='retinanet_resnet50': there is no such model (did you mean retinanet_resnet50_fpn,"
    )


@pytest.mark.parametrize(
    ("size", "model"),
    [
        ("", "yolox_m"),
        ("small", "yolox_s"),
        ("medium", "yolox_m"),
        ("large", "yolox_l"),
        ("extra_large", "yolox_x"),
    ],
)
def test_model__yolov5_is_a_yolox_of_its_size(size: str, model: str) -> None:
    parsed = parse_hyperparameters({"model_name": "yolov5", "model_size": size})
    assert (parsed.model_name, parsed.image_size, parsed.learning_rate) == (model, 640, 0.01)
    assert (parsed.number_of_epochs, parsed.training_batch_size, parsed.box_score_threshold) == (30, 16, 0.1)


def test_model__size_without_yolov5() -> None:
    assert problems({"model_size": "small"}) == (
        "model_size applies only to model_name=yolov5; leave out model_size='small'"
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"model_name": "ssd_vgg16", "min_size": "600"},
            "min_size=600: ssd_vgg16 takes image_size, the side of its square input, instead",
        ),
        (
            BUILTIN | {"max_size": "800"},
            "max_size=800: ssd_vgg16 takes image_size, the side of its square input, instead",
        ),
        (
            {"image_shape": "512"},
            "image_shape=512: fasterrcnn_resnet50_fpn takes min_size and max_size,"
            " its shorter and longer side, instead",
        ),
    ],
)
def test_scaling__wrong_for_the_model(raw: dict[str, str], message: str) -> None:
    assert problems(raw) == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"min_size": "900", "max_size": "800"}, "min_size=900: must be at most max_size=800"),
        ({"min_size": "1400"}, "min_size=1400: must be at most max_size=1333"),
        ({"max_size": "599"}, "max_size=599: must be at least min_size=600"),
    ],
)
def test_scaling__sides_in_order(raw: dict[str, str], message: str) -> None:
    assert problems(raw) == message


def test_scaling__equal_sides() -> None:
    assert parse_hyperparameters({"min_size": "800", "max_size": "800"}).min_size == 800


def test_stride_4_level__only_where_there_is_a_pyramid() -> None:
    for model in ("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "gfl_resnet18_fpn"):
        assert parse_hyperparameters({"model_name": model, "stride_4_level": "1"}).stride_4_level
    assert problems({"model_name": "yolox_s", "stride_4_level": "1"}) == (
        "stride_4_level=1: yolox_s has no such level, only retinanet_*, fcos_*, gfl_* have; leave it out"
    )
    assert not parse_hyperparameters({"model_name": "yolox_s", "stride_4_level": "0"}).stride_4_level


# Checkpoints


def test_checkpoints__as_azure_writes_them() -> None:
    parsed = parse_hyperparameters({"checkpoint_frequency": "2", "checkpoint_run_id": "a1"})
    assert (parsed.checkpoint_frequency, parsed.checkpoint_run_id) == (2, "a1")
    assert parse_hyperparameters({"checkpoint_frequency": "None"}).checkpoint_frequency is None
    assert problems({"checkpoint_frequency": "0"}) == (
        "checkpoint_frequency=0: must be a whole number, at least 1"
    )


# Views


@pytest.mark.parametrize("text", ["3x2", "3X2", "(3, 2)", "3, 2", "[3x2]", " 3x2 "])
def test_views__grid_in_all_spellings(text: str) -> None:
    parsed = parse_hyperparameters({"tile_grid_size": text})
    assert parsed.tile_grid_size == (3, 2)
    assert parsed.training_views == "grid"


@pytest.mark.parametrize("text", ["1x1", "3", "3x", "0x2", "3x2x1", "axb", "3.5x2"])
def test_views__grid_of_a_wrong_form(text: str) -> None:
    assert problems({"tile_grid_size": text}).endswith(
        ": must be columns x rows of more than one tile, such as 3x2, or auto"
    )


@pytest.mark.parametrize(
    ("raw", "views"),
    [
        ({}, "whole"),
        ({"tile_grid_size": "AUTO"}, "grid"),
        ({"tile_size": "500"}, "fixed"),
        ({"training_views": "grid"}, "grid"),
        ({"training_views": "fixed"}, "fixed"),
        ({"training_views": "whole", "tile_grid_size": "3x2", "tile_merge": "nms"}, "whole"),
        ({"training_views": "whole", "tile_size": "500"}, "whole"),
        (
            {"tile_overlap_ratio": "0.1", "tile_predictions_nms_threshold": "0.5"},
            "whole",
        ),  # as Azure's jobs may
        ({"training_views": "sniper", "chip_size": "256"}, "sniper"),
        ({"training_views": "snip", "multi_scale": "0", "negative_views_ratio": "0"}, "snip"),
    ],
)
def test_views__what_training_looks_at(raw: dict[str, str], views: str) -> None:
    parsed = parse_hyperparameters(raw)
    assert parsed.training_views == views
    assert Hyperparameters.model_validate(parsed.model_dump(mode="json")) == parsed


def test_views__pyramid() -> None:
    raw = {"training_views": "snip", "pyramid_scales": "1, 1.667,3", "pyramid_ranges": "120-, 32-150, 0-80"}
    parsed = parse_hyperparameters(raw)
    assert parsed.pyramid_scales == (1, 1.667, 3)
    assert parsed.pyramid_ranges == ((120, None), (32, 150), (0, 80))
    assert Hyperparameters.model_validate(parsed.model_dump(mode="json")) == parsed


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"tile_grid_size": "3x2", "tile_size": "500"},
            "tile_grid_size='3x2' and tile_size=500 exclude each other: give one of them",
        ),
        (
            {"training_views": "fixed", "tile_grid_size": "3x2"},
            "tile_grid_size='3x2' does not go with training_views=fixed, only with grid or whole",
        ),
        (
            {"training_views": "grid", "tile_size": "500"},
            "tile_size=500 does not go with training_views=grid, only with fixed or whole",
        ),
        (
            {"chip_size": "500"},
            "chip_size=500 does not go with training_views (here whole), only with sniper",
        ),
        (
            {"tile_grid_size": "3x2", "pyramid_scales": "1,2"},
            "pyramid_scales='1,2' does not go with training_views (here grid), only with snip or sniper",
        ),
        (
            {"training_views": "sniper", "multi_scale": "1"},
            "multi_scale=1 does not go with training_views=sniper, only with whole or grid or fixed",
        ),
        (
            {"training_views": "snip", "negative_views": "false_alarms"},
            "negative_views='false_alarms' does not go with training_views=snip, only with sniper",
        ),
        (
            {"negative_views_ratio": "1"},
            "negative_views_ratio=1 does not go with training_views (here whole), only with grid or fixed"
            " or snip or sniper",
        ),
        (
            {"tile_merge": "wbf"},
            "tile_merge='wbf': there are no tiles; give tile_grid_size or tile_size, or leave it out",
        ),
        (
            {"training_views": "snip", "pyramid_ranges": "0-80"},
            "pyramid_ranges='0-80': 1 ranges for no scales; give pyramid_scales with as many",
        ),
        (
            {"training_views": "snip", "pyramid_scales": "1,2", "pyramid_ranges": "0-80"},
            "pyramid_ranges='0-80': 1 ranges for 2 scales; give pyramid_scales with as many",
        ),
        (
            {"model_name": "ssd_vgg16", "training_views": "sniper", "chip_size": "300"},
            "chip_size=300: ssd_vgg16 takes image_size, the side of its square input, instead",
        ),
    ],
)
def test_views__what_does_not_go_together(raw: dict[str, str], message: str) -> None:
    assert problems(raw) == message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyramid_scales", "2,1"),
        ("pyramid_scales", "0.5,1"),
        ("pyramid_scales", "1,1"),
        ("pyramid_ranges", "80-0"),
        ("pyramid_ranges", "80"),
        ("pyramid_ranges", "a-b"),
        ("pyramid_ranges", "-5-3"),
        ("negative_views_ratio", "-1"),
        ("min_box_visibility", "1.1"),
        ("tile_merge", "best"),
    ],
)
def test_views__wrong_values(name: str, text: str) -> None:
    assert f"{name}={text!r}: must be " in problems({name: text}) or f"{name}={text}: must be " in problems(
        {name: text}
    )


# Several problems


def test_problems__all_at_once_in_order() -> None:
    raw = {
        "checkpoint_frequency": "0",
        "learning_rate": "3",
        "epoch": "5",
        "number_of_epochs": "5",
        "epochs": "6",
        "image_size": "512",
        "momentum": "0.8",
        "num_training_samples": "9",
    }
    assert problems(raw).split("; ") == [
        "checkpoint_frequency=0: must be a whole number, at least 1",
        "learning_rate=3: must be greater than 0 and at most 1",
        "epoch=5: unknown hyperparameter (did you mean epochs?)",
        "number_of_epochs=5 and epochs=6 disagree: give one of them",
        "num_classes is required in a job with num_training_samples and no model_name"
        " (one for the built-in algorithm)",
    ]


def test_problems__a_wrong_num_training_samples_is_not_missing_too() -> None:
    assert problems({"num_classes": "2", "num_training_samples": "all"}) == (
        "num_training_samples='all': must be a whole number, at least 1"
    )


# Any input

NAMES = st.sampled_from([*ROWS, *(row.alias for row in ROWS.values() if row.alias), "_x", "sagemaker_region"])
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [*VALID.values(), *model_names(), *LATER_MODELS, "yolov5", "vgg-16", "small", "", "none"]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=6).map(json.dumps),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.one_of(NAMES, st.text(max_size=8)), TEXTS, max_size=12))
def test_any_strings__parse_or_raise_a_user_error(raw: dict[str, str]) -> None:
    try:
        parsed = parse_hyperparameters(raw)
    except UserError as error:
        assert str(error)
    else:
        assert Hyperparameters.model_validate(parsed.model_dump(mode="json")) == parsed


@settings(max_examples=50, deadline=None)
@given(st.sets(st.sampled_from(sorted(VALID))))
def test_valid_values__round_trip_through_json_quoting(names: set[str]) -> None:
    plain = {name: VALID[name] for name in sorted(names)}
    quoted = {name: json.dumps(text) for name, text in plain.items()}
    padded = {name: f"  {text}\n" for name, text in plain.items()}
    try:
        parsed = parse_hyperparameters(plain)
    except UserError as error:
        assert problems(quoted) == problems(padded) == str(error)
    else:
        assert parse_hyperparameters(quoted) == parse_hyperparameters(padded) == parsed
        assert parsed.given == tuple(plain)


@pytest.mark.parametrize("name", VALID)
def test_valid_values__have_their_effect(name: str) -> None:
    raw = {"model_name": "fcos_resnet50_fpn", "tile_grid_size": "4x4", name: VALID[name]}
    changed = getattr(parse_hyperparameters(raw), name)
    assert changed != getattr(parse_hyperparameters({}), name)


# Documentation and imports


def test_markdown__is_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == as_markdown(), "run the command in the file's first line"


def test_markdown__names_everything() -> None:
    page = as_markdown()
    for name, row in ROWS.items():
        assert f"| `{name}` |" in page
        assert row.alias is None or f"`{row.alias}`" in page
    for model in model_names() + LATER_MODELS:
        assert f"| `{model}` |" in page


def test_markdown__tells_its_command_first() -> None:
    assert "python -m tilewise hyperparameters > docs/hyperparameters.md" in as_markdown().splitlines()[0]


def test_import__needs_no_torch() -> None:
    code = "import sys, tilewise.hyperparameters; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
