from __future__ import annotations

import pytest
from raw_hyperparameters import BUILTIN, problems
from tilewise.hyperparameters import parse_hyperparameters


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


def test_checkpoints__as_azure_writes_them() -> None:
    parsed = parse_hyperparameters({"checkpoint_frequency": "2", "checkpoint_run_id": "a1"})
    assert (parsed.checkpoint_frequency, parsed.checkpoint_run_id) == (2, "a1")
    assert parse_hyperparameters({"checkpoint_frequency": "None"}).checkpoint_frequency is None
    assert parse_hyperparameters({"checkpoint_frequency": "0"}).checkpoint_frequency == 0  # the best alone
    older = {"checkpoint_dataset_id": "d1", "checkpoint_filename": "model.pt"}
    assert parse_hyperparameters(older).checkpoint_filename == "model.pt"


@pytest.mark.parametrize("task", ["instance_segmentation", "classification", "multilabel_classification"])
@pytest.mark.parametrize("extra", [{}, {"num_training_samples": "500", "num_classes": "2"}])
def test_job__of_another_task_is_none_of_the_built_in_object_detection(
    task: str, extra: dict[str, str]
) -> None:
    """Pipe mode needs num_training_samples, whatever the task."""
    hp = parse_hyperparameters({"task": task, **extra})
    plain = parse_hyperparameters({"task": task})
    assert (hp.dialect, hp.model_name, hp.training_batch_size) == (
        "azure",
        plain.model_name,
        plain.training_batch_size,
    )
    assert (hp.learning_rate_scheduler, hp.batch_unit) == ("warmup_cosine", "gpu")
