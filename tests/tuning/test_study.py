from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")

from PIL import Image  # noqa: E402
from tilewise.errors import UserError  # noqa: E402
from tilewise.tuning.results import describe, draw_study, write_table  # noqa: E402
from tilewise.tuning.space import Search, parse_search  # noqa: E402
from tilewise.tuning.study import Study  # noqa: E402
from tilewise.tuning.trial import Trial, TrialError, figure_of, train_in_process  # noqa: E402

Validated = Callable[[int, Mapping[str, Any]], bool]
SPACES = parse_search(
    [
        {"model_name": "yolox_nano", "learning_rate": "loguniform(-9, -2)"},
        {"model_name": "yolox_tiny", "tile_grid_size": "choice('2x1', '3x2', '5x3')"},
    ]
).spaces
EPOCHS = 4


class StandIn:
    """Trains in no time: best at a learning rate of 0.01; tiles are worth a little."""

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.epochs: list[int] = []

    def __call__(self, trial: Trial, validated: Validated) -> Mapping[str, Any]:
        given = trial.hyperparameters
        self.trials.append(trial)
        rate = given.get("learning_rate")
        final = (
            0.9 - 0.2 * abs(math.log10(float(rate)) + 2)
            if rate
            else 0.1 + 0.01 * int(given["tile_grid_size"][0])
        )
        for epoch in range(EPOCHS):
            best = {"AP": final * (epoch + 1) / EPOCHS, "AP_large": None}
            if not validated(epoch, best):
                self.epochs.append(epoch + 1)
                return {"best": best}
        self.epochs.append(EPOCHS)
        return {"best": best, "details": {"F1": final / 2}}


def study_of(out: Path, train: Any, objective: str = "AP", **search: Any) -> Study:
    return Study(Search(SPACES, **search), out, objective=objective, train=train, seed=3)


def ignore(trial: Any) -> None:
    pass


def test_run__finds_the_better_space_and_ends_the_worse_early(tmp_path: Path) -> None:
    train, lines = StandIn(), []
    study = study_of(tmp_path / "out", train)
    study.run(16, None, lambda trial: lines.append(describe(trial)))
    best = study.best()
    assert best is not None and best.value is not None and best.value > 0.75
    assert best.user_attrs["hyperparameters"]["model_name"] == "yolox_nano"
    assert len(train.trials) == len(lines) == 16
    assert min(train.epochs) < EPOCHS, "no trial has ended early"
    assert all({"learning_rate", "tile_grid_size"} & t.hyperparameters.keys() for t in train.trials)
    assert not any({"learning_rate", "tile_grid_size"} <= t.hyperparameters.keys() for t in train.trials)

    with write_table(study).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and rows[0]["trial"] == str(best.number)
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    complete = [float(row["AP"]) for row in rows if row["state"] == "complete"]
    assert complete == sorted(complete, reverse=True)
    with Image.open(draw_study(study)) as picture:
        assert picture.width > 800 and np.asarray(picture.convert("RGB")).std() > 5


def test_run__goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    first, second = StandIn(), StandIn()
    study_of(tmp_path, first).run(3, None, ignore)
    again = study_of(tmp_path, second)
    again.run(5, None, ignore)
    assert (len(first.trials), len(second.trials)) == (3, 2)
    assert second.trials[0].folder.name == "trial-003"
    with pytest.raises(UserError, match="a study of another space or objective"):
        study_of(tmp_path, StandIn(), "AP50")


def test_run__goes_on_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    study_of(tmp_path, StandIn()).run(2, None, ignore)
    log = tmp_path / "study.log"
    log.write_bytes(log.read_bytes()[:-20])
    again = study_of(tmp_path, StandIn())
    again.run(3, None, ignore)
    assert len(again.finished()) == 3


def test_run__goes_on_with_the_right_objective_after_a_misspelt_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"AP_larg: .*no such figure \(did you mean AP_large"):
        study_of(tmp_path, StandIn(), "AP_larg").run(1, None, ignore)
    study = study_of(tmp_path, StandIn(), "AP")
    study.run(1, None, ignore)
    assert study.objective == study.study.user_attrs["objective"] == "AP"


@pytest.mark.parametrize("sampling", ["random", "bayesian"])
def test_run__that_goes_on_proposes_what_was_not_tried(tmp_path: Path, sampling: str) -> None:
    space = parse_search({"model_name": "yolox_nano", "learning_rate": "loguniform(-9, -2)"}).spaces
    train = StandIn()
    for trials in (2, 4):
        search = Search(space, sampling=sampling)  # type: ignore[arg-type]
        Study(search, tmp_path, objective="AP", train=train, seed=3).run(trials, None, ignore)
    assert len({trial.hyperparameters["learning_rate"] for trial in train.trials}) == 4


@pytest.mark.parametrize(
    ("policy", "ended"),
    [
        ({"type": "bandit", "slack_factor": 0.2, "delay_evaluation": 2}, 3),
        ({"type": "bandit", "slack_amount": 0.1}, 1),
        ({"type": "bandit", "slack_amount": 0.9}, None),
        ({"type": "median_stopping", "delay_evaluation": 1}, 2),
        ({"type": "truncation_selection", "truncation_percentage": 50, "delay_evaluation": 2}, 3),
    ],
    ids=str,
)
def test_early_termination__as_azure_has_it(
    tmp_path: Path, policy: dict[str, Any], ended: int | None
) -> None:
    """A good trial, then a bad one: which epoch ends it."""
    levels = iter([0.8, 0.2])
    epochs = []

    def train(trial: Trial, validated: Validated) -> Mapping[str, Any]:
        best = {"AP": next(levels)}
        for epoch in range(EPOCHS):
            if not validated(epoch, best):
                break
        epochs.append(epoch + 1)
        return {"best": best}

    space = {"optimizer": "choice('sgd', 'adam')"}
    sweep = parse_search({"search_space": space, "sweep": {"early_termination": policy}})
    study = Study(sweep, tmp_path, objective="AP", train=train)
    study.run(2, None, ignore)
    assert epochs == [EPOCHS, ended or EPOCHS]
    assert study.finished()[1].state.name == ("PRUNED" if ended else "COMPLETE")


def test_grid__tries_each_once(tmp_path: Path) -> None:
    spaces = [
        {"model_name": "yolox_nano", "tile_grid_size": "choice('2x1', '3x2', '5x3')"},
        {"model_name": "choice('yolox_s', 'yolox_m')", "tile_grid_size": "3x2"},
    ]
    sweep = parse_search({"search_space": spaces, "sweep": {"sampling_algorithm": "grid"}})
    train = StandIn()
    for trials in (2, 20):  # interrupted, and continued
        Study(sweep, tmp_path, objective="AP", train=train).run(trials, None, ignore)
    tried = [trial.hyperparameters for trial in train.trials]
    assert sorted((each["model_name"], each["tile_grid_size"]) for each in tried) == [
        ("yolox_m", "3x2"),
        ("yolox_nano", "2x1"),
        ("yolox_nano", "3x2"),
        ("yolox_nano", "5x3"),
        ("yolox_s", "3x2"),
    ]


def test_minutes__no_trial_begins_after_them(tmp_path: Path) -> None:
    def train(trial: Trial, validated: Validated) -> Mapping[str, Any]:
        assert trial.deadline is not None and trial.deadline - time.monotonic() < 0.2
        time.sleep(0.15)
        return {"best": {"AP": 0.5}}

    study = study_of(tmp_path, train)
    study.run(50, 0.1 / 60, ignore)
    assert len(study.finished()) == 1


@pytest.mark.parametrize("objective", ["AP", "details.F1"])
def test_minutes__that_end_before_the_first_validation_leave_the_other_trials(
    tmp_path: Path, objective: str
) -> None:
    def train(trial: Trial, validated: Validated) -> Mapping[str, Any]:
        if trial.folder.name == "trial-000":
            return {"best": {"AP": 0.5}, "details": {"F1": 0.5}}
        assert trial.deadline is not None
        time.sleep(max(0.0, trial.deadline - time.monotonic()))
        return {"best": {}, "details": None}

    study = study_of(tmp_path, train, objective)
    study.run(3, 0.2 / 60, ignore)
    best, (_, late) = study.best(), study.finished()
    assert best is not None and best.number == 0
    assert "(failed)" in describe(late)
    assert describe(late).endswith("it ended without a validation: the minutes were over")
    assert len(write_table(study).read_text().splitlines()) == 3


def test_failures__are_kept_and_three_at_the_beginning_end_it(tmp_path: Path) -> None:
    def fails(trial: Trial, validated: Validated) -> Mapping[str, Any]:
        raise TrialError("ClientError: no data")

    study = study_of(tmp_path / "a", fails)
    with pytest.raises(UserError, match=r"the first three trials failed; the last one: ClientError: no data"):
        study.run(9, None, ignore)
    assert "(failed)" in describe(study.finished()[0]) and "no data" in describe(study.finished()[0])
    none = study_of(tmp_path / "b", StandIn(), "AP_large")
    with pytest.raises(UserError, match="AP_large is none: there are no such objects"):
        none.run(3, None, ignore)


def test_objective__any_figure_of_metrics(tmp_path: Path) -> None:
    metrics = {
        "best": {
            "AP": 0.5,
            "AP_large": None,
            "AP_class": {"St. Bernard": 0.25, "cat": 0.75},
            "VOC": {"mAP": 0.6},
        },
        "details": {"F1": 0.4},
    }
    found = [
        figure_of(metrics, name)
        for name in (
            "AP",
            "AP_class.St. Bernard",
            "AP_class.cat",
            "VOC.mAP",
            "details.F1",
            "best.AP",
            "AP_large",
        )
    ]
    assert found == [0.5, 0.25, 0.75, 0.6, 0.4, 0.5, None]
    for wrong in ("AP_smal", "AP_class", "AP_class.dog", "AP.x"):
        said = f"--objective {wrong}: metrics.json has no such figure( \\(did you mean .*\\?\\))?; it has"
        with pytest.raises(UserError, match=said):
            figure_of(metrics, wrong)
    study = study_of(tmp_path / "late", StandIn(), "details.F1")  # is known at the end alone
    study.run(2, None, ignore)
    assert {trial.state.name for trial in study.finished()} == {"COMPLETE"}
    with pytest.raises(UserError, match="AP_smal"):
        study_of(tmp_path / "wrong", StandIn(), "AP_smal").run(2, None, ignore)


JOB = """
import json, os, pathlib, signal, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
hp = json.loads((base / "input/config/hyperparameters.json").read_text())
channels = json.loads((base / "input/config/inputdataconfig.json").read_text())
assert all((base / "input/data" / name / "file").read_text() for name in channels)
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
if hp["learning_rate"] == "bad":
    (base / "output/failure").write_text("ClientError: learning_rate=bad")
    sys.exit(2)
for epoch in range(40):
    time.sleep(0.02)
    if stopped:
        break
    (base / "model/model.json").write_text(json.dumps({"metrics": {"AP": epoch / 100}}))
    print(f"#quality_metric: host=algo-1, epoch={epoch}, validation mAP <score>=(0.1)")
    print(f"#quality_metric: host=algo-1, epoch={epoch}, validation AR <score>=(0.2)")
    print("#progress_metric: host=algo-1, completed 5 % of epochs", flush=True)
metrics = {"best": {"AP": epoch / 100}, "stopped": bool(stopped)}
(base / "output/data/metrics.json").write_text(json.dumps(metrics))
"""


def test_train_in_process__reads_epochs_stops_and_tells_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package" / "tilewise" / "commands"
    package.mkdir(parents=True)
    (package / "train.py").write_text(JOB)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    for channel in ("train", "validation"):
        (tmp_path / "data" / channel).mkdir(parents=True)
        (tmp_path / "data" / channel / "file").write_text("x")
    monkeypatch.setattr(sys.modules["tilewise.tuning.trial"], "PACKAGE", tmp_path / "package")
    train = train_in_process(tmp_path / "data", ["train", "validation"])
    seen = []

    def until_five(epoch: int, best: Mapping[str, Any]) -> bool:
        seen.append((epoch, best["AP"]))
        return epoch < 5

    metrics = train(Trial(tmp_path / "one", {"learning_rate": "1"}), until_five)
    assert metrics["stopped"] and seen[:6] == [(epoch, epoch / 100) for epoch in range(6)]
    assert "epoch=5" in (tmp_path / "one" / "train.log").read_text()
    metrics = train(Trial(tmp_path / "two", {"learning_rate": "1"}), lambda epoch, best: True)
    assert metrics == {"best": {"AP": 0.39}, "stopped": False}
    late = Trial(tmp_path / "three", {"learning_rate": "1"}, time.monotonic() + 0.3)
    assert train(late, lambda epoch, best: True)["stopped"]
    with pytest.raises(TrialError, match="ClientError: learning_rate=bad"):
        train(Trial(tmp_path / "four", {"learning_rate": "bad"}), lambda epoch, best: True)
