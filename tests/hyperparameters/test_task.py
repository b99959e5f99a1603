from __future__ import annotations

import pytest
from raw_hyperparameters import BUILTIN, problems
from tilewise.hyperparameters import parse_hyperparameters


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
