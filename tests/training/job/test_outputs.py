from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_instances import make_instances
from PIL import Image
from stand_ins import make_job
from tilewise.data.channel import DataSet, Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.evaluate import metrics
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.stop import StopWhen
from tilewise.targets import Targets
from tilewise.training.history import TrainResult
from tilewise.training.job.outputs import write_metrics, write_outputs

HP = parse_hyperparameters({"model_name": "ssd_vgg16", "image_size": 300})
CLASSES = ("ant", "bee")


def make_data(folder: Path) -> DataSet:
    Image.new("RGB", (60, 40), "grey").save(folder / "a.png")
    boxes = np.array([[0, 0, 20, 20], [30, 0, 50, 20]], np.float32)
    record = Record(
        "a.png", folder / "a.png", 60, 40, Targets(boxes, np.array([0, 1]), np.zeros(2, np.bool_))
    )
    left_out = ChannelIssues("validation", images=2, left_out={"b.png": "it is no image"})
    split = Split(Records([record]), left_out)
    return DataSet(CLASSES, Split(split.records, ChannelIssues("train", images=1)), split)


def make_trained(data: DataSet) -> TrainResult:
    """The ant was found, the bee was not."""
    assert data.validation is not None
    found = make_instances(torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([0.9]), torch.tensor([0]))
    scored = Scored(data.validation.sample, [found])
    best = metrics(scored.records, [found], CLASSES)
    epoch: dict[str, Any] = {"records": 8, "seconds": 2.0, "learning_rate": 0.1}
    epochs = [
        {**epoch, "epoch": 0, "losses": {"classification": 2.0, "bbox_regression": 1.0}},
        {**epoch, "epoch": 1, "losses": {"classification": 1.0, "bbox_regression": 0.5}, "validation": best},
    ]
    return TrainResult(best=best, epochs=epochs, scored=scored)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.message for entry in caplog.records if entry.levelno >= logging.WARNING]


def make_description(folder: Path) -> Path:
    """As far as outputs add to it."""
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text('{"classes": ["ant", "bee"]}')
    return folder


def test_outputs__of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_data(tmp_path)
    out, model = tmp_path / "data", make_description(tmp_path / "model")
    write_outputs(make_trained(data), data, make_job(HP, model), folder=out)
    assert not warnings(caplog)

    described = json.loads((model / "model.json").read_text())
    assert described["classes"] == ["ant", "bee"]
    best = described["recommended_threshold"]
    assert described["recommended_thresholds"] == {"ant": best}, "the bee was not found"
    assert best == json.loads((out / "metrics.json").read_text())["details"]["score_threshold"]

    content = json.loads((out / "metrics.json").read_text())
    assert content["data"]["validation"]["left_out"] == {"b.png": "it is no image"}
    assert content["data"]["train"]["classes"] == {"ant": 1, "bee": 1}
    details = content["details"]
    assert details["confusion"] == {"ant": {"ant": 1}, "bee": {"(background)": 1}, "(background)": {}}
    assert details["classes"]["ant"]["AP50"] == 1
    assert details["classes"]["bee"]["recall"] == 0
    assert details["classes"]["bee"]["best_score_threshold"] is None  # it has no hit
    assert details["AP_by_size"]["small, 16 to 32"] == {"objects": 2, "AP": 0.5, "AP50": 0.5}

    page = (out / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert "1 of 2 found, 1 missed" in page


def test_outputs__after_a_request_to_stop_are_quick(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_data(tmp_path)
    job = make_job(HP, make_description(tmp_path), stop=StopWhen(lambda: True))
    write_outputs(make_trained(data), data, job, folder=tmp_path / "data")
    assert not warnings(caplog)
    page = (tmp_path / "data" / "report.html").read_text()
    assert "Precision over recall" in page
    assert "data:image/jpeg" not in page


def test_outputs__without_validation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_data(tmp_path)
    trained = TrainResult(epochs=[{"epoch": 0, "losses": {}, "records": 0, "seconds": 0.0}], stopped=True)
    write_outputs(
        trained, DataSet(CLASSES, data.train, None), make_job(HP, tmp_path), folder=tmp_path / "data"
    )
    assert not warnings(caplog)
    assert json.loads((tmp_path / "data" / "metrics.json").read_text())["details"] is None
    assert "No model of this run was validated" in (tmp_path / "data" / "report.html").read_text()


def test_outputs__the_reports_head_says_what_trained_from_scratch(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    trained = replace(make_trained(data), from_scratch="there is no yolox_s.pth here")
    job = make_job(HP, make_description(tmp_path / "model"))
    write_outputs(trained, data, job, folder=tmp_path / "data")
    head = (tmp_path / "data" / "report.html").read_text().partition("</header>")[0]
    assert '<span class="pill warn">from scratch</span>there is no yolox_s.pth here' in head
    write_outputs(make_trained(data), data, job, folder=tmp_path / "data")
    assert "from scratch" not in (tmp_path / "data" / "report.html").read_text().partition("</header>")[0]


def test_outputs__figures_that_cannot_be_written_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data" / "metrics.json").mkdir(parents=True)
    data = make_data(tmp_path)
    write_outputs(
        make_trained(data), data, make_job(HP, make_description(tmp_path)), folder=tmp_path / "data"
    )
    assert warnings(caplog) == ["the figures could not be written; the model is not affected"]
    assert (tmp_path / "data" / "report.html").is_file()


def test_outputs__a_report_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data" / "report.html").mkdir(parents=True)  # it cannot be a file
    data = make_data(tmp_path)
    write_outputs(
        make_trained(data), data, make_job(HP, make_description(tmp_path)), folder=tmp_path / "data"
    )
    assert warnings(caplog) == ["the report could not be written; the model is not affected"]
    assert "report.html" in caplog.text
    assert json.loads((tmp_path / "data" / "metrics.json").read_text())["details"]["recall"] == 0.5


def test_metrics__are_json(tmp_path: Path) -> None:
    trained = TrainResult(best={"AP": 0.5}, epochs=[{"epoch": 0}], stopped=True)
    write_metrics(trained, ("ant", "bee"), tmp_path / "data" / "metrics.json")
    assert json.loads((tmp_path / "data" / "metrics.json").read_text()) == {
        "classes": ["ant", "bee"],
        "best": {"AP": 0.5},
        "details": None,
        "test": None,
        "data": {},
        "epochs": [{"epoch": 0}],
        "stopped": True,
    }
