from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from tilewise.models.spec import DetectorSpec
from tilewise.tasks.detection.task import DetectionTask
from tilewise.training.job import metric_lines
from tilewise.training.job.metric_lines import MetricLines
from tilewise.views.view import Scaling

# Those that SageMaker attaches to its built-in Object Detection image.
DEFINITIONS = {
    "validation:mAP": r"#quality_metric: host=\S+, epoch=\S+, validation mAP <score>=\((\S+)\)",
    "train:cross_entropy": (
        r"#quality_metric: host=\S+, epoch=\S+, batch=\S+ train cross_entropy <loss>=\((\S+)\)"
    ),
    "train:smooth_l1": r"#quality_metric: host=\S+, epoch=\S+, batch=\S+ train smooth_l1 <loss>=\((\S+)\)",
    "train:progress": r"#progress_metric: host=\S+, completed (\S+) %",
    "train:throughput": r"#throughput_metric: host=\S+, train throughput=(\S+) records/second",
}

METRICS: dict[str, Any] = {
    "AP": 0.25,
    "AP50": 0.5,
    "AP75": 0.125,
    "AP_very_tiny": None,
    "AP_small": 0.25,
    "AP_medium": None,
    "AP_large": None,
    "AR": 0.75,
    "AR_small": 0.625,
    "AR_medium": None,
    "AR_large": None,
    "AP_class": {"ant": 0.25, "bee": None},
    "VOC": {"mAP": 0.5},
}


def captured(text: str) -> dict[str, list[str]]:
    found = {name: re.findall(pattern, text) for name, pattern in DEFINITIONS.items()}
    return {name: values for name, values in found.items() if values}


def test_losses__match_their_definitions(capsys: pytest.CaptureFixture[str]) -> None:
    spec = DetectorSpec("ssd_vgg16", 1, Scaling(square=300), None, 0.5, 0.5, 100)
    figures = DetectionTask().loss_figures({"classification": 1.25, "bbox_regression": 0.5}, spec)
    MetricLines("algo-1").losses(3, 25, figures)
    assert captured(capsys.readouterr().out) == {
        "train:cross_entropy": ["1.250000"],
        "train:smooth_l1": ["0.500000"],
    }


def test_throughput__matches_its_definition(capsys: pytest.CaptureFixture[str]) -> None:
    MetricLines("algo-1").throughput(115.234)
    assert captured(capsys.readouterr().out) == {"train:throughput": ["115.23"]}


def test_progress__matches_its_definition(capsys: pytest.CaptureFixture[str]) -> None:
    lines = MetricLines("algo-1")
    for done in (1, 2, 3):
        lines.progress(done, 3)
    assert captured(capsys.readouterr().out) == {"train:progress": ["33", "66", "100"]}


def test_validation__matches_its_definition_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = MetricLines("algo-1")
    lines.validation(0, {"mAP": 0.125, "AP_small": 0.25}, DetectionTask().describe("validation", METRICS))
    lines.best("mAP", 0.125)
    text = capsys.readouterr().out
    assert captured(text) == {"validation:mAP": ["0.125000"]}
    assert "validation AP_small <score>=(0.250000)" in text
    figures = "AP 0.2500, AP50 0.5000, AP75 0.1250, AP_very_tiny none, AP_small 0.2500, AP_medium none"
    assert f"validation: {figures}, AP_large none, AR 0.7500, AR_small 0.6250" in text
    assert "ant 0.2500, bee none" in text


def test_batches__now_and_then_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr(metric_lines.time, "monotonic", lambda: clock)
    lines = MetricLines("algo-1")
    for seconds in range(1, 70):
        clock = 100.0 + seconds
        lines.batches(epoch=0, batches=seconds, records=4 * seconds, seconds=seconds)
    printed = capsys.readouterr().out.splitlines()
    assert [
        re.findall(r"batches: +(\d+), num_examples: +(\d+), 4.0 samples/sec", line) for line in printed
    ] == [
        [("30", "120")],
        [("60", "240")],
    ]


def test_batches__a_terminal_has_a_bar_instead(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = MetricLines("algo-1")
    monkeypatch.setattr(metric_lines, "LINE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lines.batches(epoch=0, batches=1, records=4, seconds=1)
    assert not capsys.readouterr().out
