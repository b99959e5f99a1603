from __future__ import annotations

import pytest
from raw_hyperparameters import problems
from tilewise.hyperparameters import parse_hyperparameters


@pytest.mark.parametrize(
    "written",
    ["detection", "image-object-detection", "image_object_detection", "Object-Detection", '"detection"', ""],
)
def test_task__detection_in_all_its_spellings(written: str) -> None:
    assert parse_hyperparameters({"task": written}).task == "detection"


@pytest.mark.parametrize(
    "raw",
    [
        {"task": "image_instance_segmentation"},
        {"task": "image-instance-segmentation", "mask_pixel_score_threshold": "0.4"},
        {"model_name": "maskrcnn_resnet50_fpn"},
        {"task": "instance_segmentation", "image_type": "JPG", "export_as_image": "True"},
    ],
)
def test_task__instance_segmentation_by_azures_names_or_its_model(raw: dict[str, object]) -> None:
    parsed = parse_hyperparameters(raw)
    assert (parsed.task, parsed.model_name) == ("instance_segmentation", "maskrcnn_resnet50_fpn")
    assert (parsed.min_size, parsed.max_size, parsed.box_score_threshold) == (600, 1333, 0.3)
    assert (parsed.max_number_of_polygon_points, parsed.image_type) == (100, "jpg")


def test_task__hyperparameters_of_another_one() -> None:
    assert problems({"mask_pixel_score_threshold": "0.4"}) == (
        "mask_pixel_score_threshold=0.4: applies only to task=instance_segmentation; leave it out"
    )
    raw = {"task": "instance_segmentation", "max_number_of_polygon_points": "2", "image_type": "gif"}
    message = problems(raw)
    assert "max_number_of_polygon_points=2: must be a whole number, at least 3" in message
    assert "image_type='gif': must be one of jpg, png, bmp" in message


def test_task__unknown() -> None:
    assert problems({"task": "forecasting", "epochs": "x"}).startswith(
        "task='forecasting': there is no such task"
    )


def test_task__that_is_given_counts_more_than_signs() -> None:
    assert "num_layers=18: unknown hyperparameter" in problems({"task": "detection", "num_layers": "18"})
