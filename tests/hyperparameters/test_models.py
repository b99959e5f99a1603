from __future__ import annotations

import pytest
from raw_hyperparameters import BUILTIN, problems
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.registry import model_names


@pytest.mark.parametrize("model", model_names())
def test_model__available(model: str) -> None:
    parsed = parse_hyperparameters({"model_name": model})
    assert parsed.model_name == model
    assert (parsed.image_size is None) != (parsed.min_size is None)
    assert (parsed.min_size is None) == (parsed.max_size is None)


def test_model__of_another_task() -> None:
    available = ", ".join(model_names())
    assert problems({"task": "detection", "model_name": "maskrcnn_resnet18_fpn"}) == (
        "model_name='maskrcnn_resnet18_fpn' is a model for task=instance_segmentation; "
        f"available here: {available}"
    )
    assert problems({"task": "instance_segmentation", "model_name": "yolox_s"}).startswith(
        "model_name='yolox_s' is a model for task=detection; available here: maskrcnn_resnet18_fpn, "
    )


@pytest.mark.parametrize(("network", "model"), [("vgg-16", "ssd_vgg16"), ("resnet-50", "ssd_resnet50")])
def test_model__base_network(network: str, model: str) -> None:
    parsed = parse_hyperparameters(BUILTIN | {"base_network": network})
    assert (parsed.model_name, parsed.image_size, parsed.training_batch_size) == (model, 300, 32)


def test_model__base_network_unknown() -> None:
    assert problems(BUILTIN | {"base_network": "vgg19"}) == (
        "base_network='vgg19': must be one of vgg-16, resnet-50 (did you mean vgg-16?)"
    )


def test_model__unknown() -> None:
    assert problems({"model_name": "retinanet_resnet50", "min_size": "700"}).startswith(
        "model_name='retinanet_resnet50': there is no such model (did you mean retinanet_resnet50_fpn,"
    )
    assert "(did you mean resnet18," in problems({"model_name": "resnet19"})  # of another task
    assert "did you mean resnet18" not in problems({"model_name": "resnet19", "task": "detection"})


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


def test_stride_4_level__where_there_is_none_yet() -> None:
    for model in ("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "gfl_resnet18_fpn", "yolox_s", "ssd_vgg16"):
        assert parse_hyperparameters({"model_name": model, "stride_4_level": "1"}).stride_4_level
    rcnn = "fasterrcnn_resnet18_fpn"
    kinds = "ssd*, retinanet_*, fcos_*, gfl_*, yolox_*"
    assert problems({"model_name": rcnn, "stride_4_level": "1"}) == (
        f"stride_4_level=1: {rcnn} has no such level, only {kinds} have; leave it out"
    )
    assert not parse_hyperparameters({"model_name": rcnn, "stride_4_level": "0"}).stride_4_level
