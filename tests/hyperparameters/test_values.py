from __future__ import annotations

import pytest
from raw_hyperparameters import problems
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.hyperparameters.table import ROWS
from tilewise.hyperparameters.values import shown


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


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("car,person", ("car", "person")),
        (" car , traffic light ", ("car", "traffic light")),
        ('["a, b", "c"]', ("a, b", "c")),
        (["a", "b"], ("a", "b")),
        ("3", ("3",)),
        ("", ()),
    ],
)
def test_classes__names(text: object, names: tuple[str, ...]) -> None:
    assert parse_hyperparameters({"classes": text}).classes == names


@pytest.mark.parametrize("text", ["a,a", "a,,b", '["a"', "[1]"])
def test_classes__faulty(text: str) -> None:
    assert "must be different names such as car,person, or as JSON" in problems({"classes": text})


def test_classes__may_be_what_num_classes_counts() -> None:
    names = {"class_map": '{"0": "a", "7": "b", "9": "c"}', "classes": "c,a"}
    assert parse_hyperparameters({"num_classes": "2", **names}).num_classes == 2
    assert problems({"num_classes": "1", **names}) == "class_map has 3 classes, but num_classes=1"


def test_choices__that_need_another_one() -> None:
    assert problems({"other_classes": "ignore", "class_balance_threshold": "0.1"}) == (
        "other_classes='ignore': applies only with classes; give it, or leave this out; "
        "class_balance_threshold=0.1: applies only with class_balance; give it, or leave this out"
    )


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


def test_integer__that_nothing_could_count_to() -> None:
    most = "must be a whole number, at least 1, and at most 4294967296"
    assert problems({"number_of_epochs": "9" * 20}).endswith(most)


@pytest.mark.parametrize("name", ["minutes", "max_gradient_norm", "distillation_weight"])
def test_float__without_an_upper_end_is_finite(name: str) -> None:
    assert problems({name: "1e999"}) == f"{name}=1e999: must be greater than 0"


@pytest.mark.parametrize("text", ["1e-3", "0.001", '"0.001"', 0.001])
def test_float__as_text_or_number(text: object) -> None:
    assert parse_hyperparameters({"learning_rate": text}).learning_rate == 0.001


@pytest.mark.parametrize("text", ["3", "-0.1", "nan", "inf", "1e999"])
def test_float__refused(text: str) -> None:
    assert problems({"learning_rate": text}) == (f"learning_rate={text}: must be at least 0 and at most 1")


@pytest.mark.parametrize("name", ["tile_overlap_ratio", "validation_iou_threshold", "momentum"])
def test_float__ranges_have_their_own_ends(name: str) -> None:
    allowed = {
        "tile_overlap_ratio": "at least 0 and less than 1",
        "validation_iou_threshold": "at least 0.1 and at most 1",
        "momentum": "at least 0 and at most 1",
    }
    assert problems({name: "1.5"}) == f"{name}=1.5: must be {allowed[name]}"


@pytest.mark.parametrize(
    ("name", "word"), [("class_balance", "repeat_factor"), ("target_column_name", "label")]
)
def test_choice__of_one_word(name: str, word: str) -> None:
    assert problems({name: "other"}) == f"{name}='other': must be {word}"
    assert getattr(parse_hyperparameters({name: word.title()}), name) == word


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


UNSET = [name for name, row in ROWS.items() if {row.azure, row.builtin} & {None, ()}]


@pytest.mark.parametrize("name", UNSET)
@pytest.mark.parametrize("text", ["none", "None", "null"])
def test_value__none_where_the_default_is_no_value(name: str, text: str) -> None:
    for names in {name, ROWS[name].alias or name}:
        assert parse_hyperparameters({names: text}) == parse_hyperparameters({})


@pytest.mark.parametrize("model", ["yolox_nano", "gfl_resnet18_fpn", "ssdlite_mobilenet_v3_large"])
def test_tile_grid_size__none_where_the_model_has_auto(model: str) -> None:
    assert parse_hyperparameters({"model_name": model}).tile_grid_size == "auto"
    for text in ("none", "null"):
        parsed = parse_hyperparameters({"model_name": model, "tile_grid_size": text})
        assert (parsed.tile_grid_size, parsed.training_views) == (None, "whole")
    tiles = parse_hyperparameters({"model_name": model, "tile_grid_size": ""})
    assert tiles.tile_grid_size == "auto"


def test_value__zero_is_a_learning_rate_and_freezes_nothing() -> None:
    parsed = parse_hyperparameters({"learning_rate": "0", "layers_to_freeze": "0", "step_lr_step_size": "0"})
    assert (parsed.learning_rate, parsed.layers_to_freeze, parsed.step_lr_step_size) == (0, 0, 0)


@pytest.mark.parametrize(
    "written",
    [
        '{"apply_automl_train_augmentations": false, "stream_image_files": true}',
        {"apply_automl_train_augmentations": False},
        '{"apply_automl_train_augmentations": "False"}',
    ],
)
def test_advanced_settings__switch_off_random_windows(written: object) -> None:
    assert parse_hyperparameters({"advanced_settings": written}).random_windows is False
    message = problems({"advanced_settings": written, "random_windows": "1"})
    assert message.endswith("and random_windows=1 disagree: give one of them")


def test_advanced_settings__others_change_nothing() -> None:
    written = '{"apply_mosaic_for_yolo": true, "stream_image_files": true}'
    parsed = parse_hyperparameters({"advanced_settings": written})  # no YOLO
    assert parsed.random_windows is True and parsed.mosaic == 0


@pytest.mark.parametrize("model", ["yolov5", "yolox_nano", "maskyolox_nano"])
def test_advanced_settings__mosaic_for_yolo(model: str) -> None:
    written = '{"apply_mosaic_for_yolo": true}'
    raw = {"model_name": model} | ({"task": "instance_segmentation"} if "mask" in model else {})
    assert parse_hyperparameters(raw).mosaic == 0
    assert parse_hyperparameters(raw | {"advanced_settings": written}).mosaic == 1
    assert parse_hyperparameters(raw | {"advanced_settings": written, "mosaic": "0.5"}).mosaic == 0.5
    message = problems(raw | {"advanced_settings": written, "mosaic": "0"})
    assert message.endswith("and mosaic=0 disagree: give one of them")
    message = problems(raw | {"advanced_settings": '{"apply_mosaic_for_yolo": false}', "mosaic": "0.5"})
    assert message.endswith("and mosaic=0.5 disagree: give one of them")


@pytest.mark.parametrize("written", ["[]", '{"apply_mosaik": true}', '{"apply_mosaic_for_yolo": 3}', "true"])
def test_advanced_settings__refused(written: str) -> None:
    start = f"advanced_settings={shown(written)}: must be JSON text with flags"
    assert problems({"advanced_settings": written}).startswith(start)


def test_primary_metric__needs_figures() -> None:
    assert problems({"validation_metric_type": "none", "primary_metric": "AP_small"}) == (
        "primary_metric='AP_small': validation_metric_type='none' computes no figures; leave out one"
    )


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("bands", "4,3,2", (4, 3, 2)),
        ("bands", "[4]", (4,)),
        ("bands", "none", None),
        ("pixel_range", "0,4095", (0, 4095)),
        ("pixel_range", "-1.5, 2e3", (-1.5, 2000)),
    ],
)
def test_rendering__of_images(name: str, written: str, read: object) -> None:
    parsed = parse_hyperparameters({name: written})
    assert getattr(parsed.rendering, name) == read


@pytest.mark.parametrize(
    ("name", "written", "must_be"),
    [
        ("bands", "4,3", "three numbers of bands from 1, such as 4,3,2, or one"),
        ("bands", "0,1,2", "three numbers of bands from 1"),
        ("pixel_range", "4095,0", "two numbers, the lower first, such as 0,4095"),
        ("pixel_range", "0,nan", "two numbers"),
        ("pixel_range", "7", "two numbers"),
    ],
)
def test_rendering__refused(name: str, written: str, must_be: str) -> None:
    assert f"must be {must_be}" in problems({name: written})
