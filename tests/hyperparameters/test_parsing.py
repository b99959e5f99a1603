from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_hyperparameters import BUILTIN, problems
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.hyperparameters.table import ROWS
from tilewise.registry import model_names

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


@pytest.mark.parametrize(
    "raw", [{}, BUILTIN, BUILTIN | {"lr_scheduler_step": "20,30", "seed": "3"}, VALID, {"num_workers": "0"}]
)
def test_hyperparameters__round_trip_through_json(raw: dict[str, str]) -> None:
    parsed = parse_hyperparameters(raw)
    text = json.dumps(parsed.model_dump(mode="json"))
    assert Hyperparameters.model_validate(json.loads(text)) == parsed


def test_problems__all_at_once_in_order() -> None:
    raw = {
        "early_stopping_delay": "0",
        "learning_rate": "3",
        "epoch": "5",
        "number_of_epochs": "5",
        "epochs": "6",
        "image_size": "512",
        "momentum": "0.8",
        "num_training_samples": "9",
    }
    assert problems(raw).split("; ") == [
        "early_stopping_delay=0: must be a whole number, at least 1",
        "learning_rate=3: must be at least 0 and at most 1",
        "epoch=5: unknown hyperparameter (did you mean epochs?)",
        "number_of_epochs=5 and epochs=6 disagree: give one of them",
        "num_classes is required in a job with num_training_samples and no model_name"
        " (one for the built-in algorithm)",
    ]


def test_problems__a_wrong_num_training_samples_is_not_missing_too() -> None:
    assert problems({"num_classes": "2", "num_training_samples": "all"}) == (
        "num_training_samples='all': must be a whole number, at least 1"
    )


NAMES = st.sampled_from([*ROWS, *(row.alias for row in ROWS.values() if row.alias), "_x", "sagemaker_region"])

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *VALID.values(),
            *model_names(),
            *model_names("instance_segmentation"),
            "yolov5",
            "vgg-16",
            "small",
            "",
            "none",
        ]
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


def test_import__needs_no_torch() -> None:
    code = "import sys, tilewise.hyperparameters; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
