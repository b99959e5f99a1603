from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from tilewise.errors import UserError
from tilewise.tuning.space import (
    Categories,
    EarlyTermination,
    Interval,
    Range,
    grid_size,
    parse_search,
    read_search,
)

AZURE_JOB = """
type: automl
task: image_object_detection
primary_metric: mean_average_precision
target_column_name: label
training_data: {path: azureml:train:1, type: mltable}
limits: {max_trials: 10, max_concurrent_trials: 2, timeout_minutes: 90}
training_parameters: {early_stopping: true, evaluation_frequency: 1}
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
search_space:
  - model_name: {type: choice, values: [yolov5]}
    learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.01}
    model_size: {type: choice, values: [small, medium]}
  - model_name: {type: choice, values: [fasterrcnn_resnet50_fpn]}
    learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.001}
    optimizer: {type: choice, values: [sgd, adam, adamw]}
    tile_grid_size: {type: choice, values: ['2x1', '3x2', '5x3']}
"""


def only(name: str, given: Any) -> Range | str:
    """The range of a space with one hyperparameter; its value where that is the same in each trial."""
    (space,) = parse_search({name: given}).spaces
    return space.ranges[name] if name in space.ranges else space.fixed[name]


def test_job_of_azure__spaces_limits_and_policy(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(AZURE_JOB)
    search = read_search(path)
    yolo, rcnn = search.spaces
    assert yolo.fixed == {"model_name": "yolov5", "early_stopping": "1", "evaluation_frequency": "1"}
    assert yolo.ranges == {
        "learning_rate": Interval(0.0001, 0.01),
        "model_size": Categories(("small", "medium")),
    }
    assert rcnn.ranges["tile_grid_size"] == Categories(("2x1", "3x2", "5x3"))
    assert search.early_termination == EarlyTermination("bandit", 2, 6, slack_factor=0.2)
    assert (search.sampling, search.trials, search.parallel, search.minutes) == ("random", 10, 2, 90)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("optimizer", "choice('sgd', 'adam')", Categories(("sgd", "adam"))),
        ("optimizer", "choice(['sgd', 'adam'])", Categories(("sgd", "adam"))),
        ("optimizer", "sgd", "sgd"),
        ("tile_grid_size", "choice('2x1', '3x2', '5x3')", Categories(("2x1", "3x2", "5x3"))),
        ("learning_rate", "uniform(0.001, 0.01)", Interval(0.001, 0.01)),
        (  # YAML 1.1 has no number without a dot before its exponent
            "learning_rate",
            yaml.safe_load("{type: uniform, min_value: 1e-3, max_value: 1e-2}"),
            Interval(0.001, 0.01),
        ),
        ("training_batch_size", "quniform(2, 16, 1)", Interval(2, 16, whole=True)),
        ("training_batch_size", "quniform(2, 8, 2)", Categories(("2", "4", "6", "8"))),
        ("momentum", "quniform(0.8, 0.95, 0.05)", Categories(("0.8", "0.85", "0.9", "0.95"))),
        ("training_batch_size", "qloguniform(0, 3, 1)", Interval(1, 20, log=True, whole=True)),
        ("warmup_steps", "randint(3)", Interval(0, 2, whole=True)),
        ("early_stopping", {"type": "choice", "values": [True, False]}, Categories(("1", "0"))),
    ],
)
def test_distributions__as_yaml_and_as_text(name: str, given: Any, expected: Range | str) -> None:
    assert only(name, given) == expected


def test_loguniform__takes_exponents_as_azure() -> None:
    found = only("learning_rate", {"type": "loguniform", "min_value": -9.2103, "max_value": -4.6052})
    assert isinstance(found, Interval) and found.log
    assert math.isclose(found.low, 1e-4, rel_tol=1e-4) and math.isclose(found.high, 1e-2, rel_tol=1e-4)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "learning_rat",
            "uniform(0, 1)",
            r"learning_rat: unknown .*\(did you mean learning_rate",
        ),
        ("learning_rate", "uniform(0.1, 5)", "learning_rate=5.0: must be"),
        ("learning_rate", "uniform(0.1, 0.01)", "from 0.1 to 0.01 is empty: max_value must be above"),
        ("learning_rate", "normal(0.01, 0.001)", "normal has no ends.*use uniform"),
        ("learning_rate", "unifrom(0, 1)", r"no distribution 'unifrom' \(did you mean uniform"),
        ("learning_rate", "uniform(0.01)", "uniform needs max_value"),
        (
            "learning_rate",
            {"type": "uniform", "min": 0, "max_value": 1},
            "uniform takes min_value, max_value, not min",
        ),
        ("learning_rate", "uniform('a', 1)", "uniform needs a number as min_value, not 'a'"),
        ("learning_rate", "uniform(x, 1)", "cannot be read"),
        ("training_batch_size", "uniform(2, 16)", "takes whole numbers: use choice, or quniform with q: 1"),
        ("learning_rate", "quniform(0, 1, 0.001)", "1001 values, more than 30: take larger steps"),
        ("learning_rate", "quniform(0, 1, 0)", "q must be above 0"),
        ("optimizer", "choice('sgd', 'lion')", "optimizer=lion: must be"),
        ("optimizer", "choice('sgd', 'sgd')", "a value twice"),
        ("optimizer", {"type": "choice", "values": []}, "needs a list of values"),
        ("tile_grid_size", "choice('2x', '3x2')", "tile_grid_size=2x: must be"),
        ("learning_rate", [0.1, 0.2], r"write \{type: choice, values: \[0.1, 0.2\]\}"),
        ("learning_rate", {"values": [0.1, 0.2]}, "needs a type of choice, uniform"),
        ("learning_rate", "uniform(0.1, 0.2, 0.3)", "uniform takes min_value, max_value, not 3 numbers"),
        ("learning_rate", "loguniform(-900, -5)", "exponents of e, as in Azure: min_value: -9.21 is 0.0001"),
        ("learning_rate", "loguniform(0.0001, 0.1)", "must be .* exponents of e"),
        ("warmup_steps", "randint(1)", "a whole number as upper, at least 2, not 1"),
        ("warmup_steps", "randint(2.5)", "a whole number as upper, at least 2, not 2.5"),
    ],
)
def test_wrong_ranges__are_named_with_the_cure(name: str, given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        only(name, given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be a mapping"),
        ("learning_rate", "must be a mapping"),
        ({"search_space": {}, "limits": {"max_trials": 0}}, "max_trials must be a whole number, at least 1"),
        ({"search_space": {}, "limits": 3}, "limits must be a mapping"),
        ({"limits": {"max_trials": 3}}, "the job has limits, but no search_space"),
        (
            {"search_space": {}, "sweep": {"sampling_algorithm": "sobol"}},
            "one of random, grid, bayesian",
        ),
        (
            {"search_space": {}, "sweep": {"early_termination": {"type": "bandid"}}},
            "a type of bandit",
        ),
        ({"search_space": {}, "sweep": {"early_termination": {"type": "bandit"}}}, "one of slack_factor and"),
        (
            {"search_space": {}, "sweep": {"early_termination": {"type": "median_stopping", "delay": 1}}},
            "has no delay",
        ),
        (
            {"search_space": {}, "sweep": {"early_termination": {"type": "truncation_selection"}}},
            "needs truncation_percentage",
        ),
        ({"search_space": {}, "limits": {"max_trial": 3}}, r"limits has max_trial: max_trials is meant\?"),
        ({"search_space": {}, "sweep": {"early_terminaton": {}}}, "sweep has early_terminaton: early_term"),
        ({"search_space": {}, "limit": {"max_trials": 3}}, "the job has limit: limits is meant"),
        ({"search_space": {}, "training_parameters": {"epohcs": 3}}, "epohcs: unknown hyperparameter"),
    ],
)
def test_wrong_sweeps__are_named(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_search(content)


def test_read__no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("a: [")
    with pytest.raises(UserError, match=r"job\.yaml is not YAML"):
        read_search(path)


def test_grid__counts_choices_and_takes_nothing_else() -> None:
    spaces = parse_search(
        [
            {"tile_grid_size": "choice('2x1', '3x2', '5x3')", "optimizer": "choice('sgd', 'adam')"},
            {"tile_grid_size": "choice('2x1', '3x2')"},
        ]
    ).spaces
    assert grid_size(spaces) == 8
    with pytest.raises(UserError, match="learning_rate: a grid takes choice only"):
        grid_size(parse_search({"learning_rate": "uniform(0, 1)"}).spaces)
