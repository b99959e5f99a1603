from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import SIDE, StandIn, Steady, description, plain_hp, run, saved
from stand_ins import Script
from tilewise.data.channel import DataSet
from tilewise.evaluation.evaluate import evaluate
from tilewise.evaluation.voc import VocMetric
from tilewise.inference.predictor import Predictor
from tilewise.stop import StopToken
from tilewise.training.dataloading import dataset
from tilewise.views.sample import make_sample


def flat(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Nested figures by their path."""
    found: dict[str, float | None] = {}
    for name, value in metrics.items():
        if isinstance(value, list):
            value = {str(number): figure for number, figure in enumerate(value)}
        if isinstance(value, dict):
            found |= {f"{name}/{inner}": figure for inner, figure in flat(value).items()}
        elif isinstance(value, list):
            found |= {f"{name}/{place}": figure for place, figure in enumerate(value)}
        else:
            found[name] = value
    return found


def test_training__learns_and_logs_what_the_endpoint_will_give(
    data: DataSet, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hp = plain_hp(
        number_of_epochs=15,
        evaluation_frequency=15,
        optimizer="adam",
        learning_rate=0.002,
        box_score_threshold=0.01,
        validation_batch_size=3,
    )
    trained = run(data, hp, model_dir)
    losses = [sum(epoch["losses"].values()) for epoch in trained.epochs]
    assert len(losses) == 15
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    assert all(epoch["records"] == 8 for epoch in trained.epochs)

    assert data.validation is not None
    # as validation computes: another batch or a frozen graph rounds otherwise, and so ranks otherwise
    predictor = Predictor.load(model_dir, backend="eager", batch_size=3)
    metrics = evaluate(predictor, data.validation.sample, data.validation.issues, voc=VocMetric(points="all"))
    logged = description(model_dir)["metrics"]
    assert metrics is not None
    assert metrics["VOC"]["mAP"] > 0
    assert logged["epoch"] == 14
    assert flat({key: logged[key] for key in metrics}) == pytest.approx(flat(metrics), abs=1e-6)
    assert f"validation mAP <score>=({metrics['VOC']['mAP']:.6f})" in capsys.readouterr().out


def test_model__kept_is_the_best_not_the_last(data: DataSet, model_dir: Path) -> None:
    script = Script([0.1, 0.5, 0.5, 0.3])
    trained = run(data, plain_hp(number_of_epochs=4, learning_rate=0.1), model_dir, StandIn(), script)
    assert not torch.equal(script.seen[1]["weight"], script.seen[3]["weight"])
    torch.testing.assert_close(saved(model_dir), script.seen[1])
    assert description(model_dir)["metrics"]["epoch"] == 1
    assert trained.best["VOC"]["mAP"] == 0.5
    assert sorted(path.name for path in model_dir.iterdir()) == ["model-0001.safetensors", "model.json"]
    assert [epoch["validation"]["VOC"]["mAP"] for epoch in trained.epochs] == [0.1, 0.5, 0.5, 0.3]


@pytest.mark.parametrize(("figures", "warned"), [([0.0, 0.0], True), ([0.0, 0.1], False)])
def test_model__that_finds_nothing_is_warned_of(
    figures: list[float], warned: bool, data: DataSet, model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(data, plain_hp(number_of_epochs=2), model_dir, StandIn(), Script(figures))
    assert ("the model has not learnt to find anything" in caplog.text) == warned


@pytest.mark.parametrize(("metric", "score"), [("coco", 0.2), ("voc", 0.4), ("coco_voc", 0.4)])
def test_metric_type__says_which_score_chooses(
    metric: str,
    score: float,
    data: DataSet,
    model_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = Script([0.4])
    run(data, plain_hp(validation_metric_type=metric), model_dir, StandIn(), script)
    assert f"validation mAP <score>=({score:.6f})" in capsys.readouterr().out


def test_metric_type__none_keeps_the_last(
    data: DataSet, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = Steady(set())
    script = Script([])
    hp = plain_hp(validation_metric_type="none", number_of_epochs=3, learning_rate=0.1)
    trained = run(data, hp, model_dir, detector, script)
    assert not script.seen
    assert not trained.best
    assert saved(model_dir)["bias"].item() == pytest.approx(-0.6)
    assert description(model_dir)["metrics"] == {}
    assert "completed 100 %" in capsys.readouterr().out


def test_validation__nothing_found_is_a_score_of_zero(data: DataSet, model_dir: Path) -> None:
    run(data, plain_hp(), model_dir, StandIn())
    metrics = description(model_dir)["metrics"]
    assert (metrics["AP"], metrics["VOC"]["mAP"]) == (0, 0)


@pytest.mark.parametrize(("every", "evaluated"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (9, [4])])
def test_evaluation_frequency__and_always_at_the_end(
    every: int,
    evaluated: list[int],
    data: DataSet,
    model_dir: Path,
) -> None:
    script = Script([0.1] * 5)
    hp = plain_hp(number_of_epochs=5, evaluation_frequency=every, early_stopping=0)
    trained = run(data, hp, model_dir, StandIn(), script)
    assert [epoch["epoch"] for epoch in trained.epochs if "validation" in epoch] == evaluated


@pytest.mark.parametrize(("early_stopping", "epochs"), [(1, 4), (0, 6)])
def test_early_stopping__stops_where_it_is_on(
    early_stopping: int,
    epochs: int,
    data: DataSet,
    model_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script([0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    hp = plain_hp(
        number_of_epochs=6,
        early_stopping=early_stopping,
        early_stopping_patience=2,
        early_stopping_delay=1,
    )
    with caplog.at_level(logging.INFO):
        trained = run(data, hp, model_dir, StandIn(), script)
    assert len(trained.epochs) == epochs
    assert not trained.stopped
    assert ("stopping early after epoch 3" in caplog.text) == bool(early_stopping)


@pytest.mark.parametrize(
    "given",
    [
        {"tile_grid_size": "2x2", "tile_merge": "nms"},
        {"training_views": "snip", "pyramid_scales": "1,2", "pyramid_ranges": "15-,0-40"},
    ],
    ids=["grid", "snip"],
)
def test_views__logged_figures_are_those_of_the_merged_images_that_are_served(
    given: dict[str, object], data: DataSet, model_dir: Path
) -> None:
    hp = plain_hp(
        number_of_epochs=4,
        evaluation_frequency=4,
        optimizer="adam",
        learning_rate=0.002,
        box_score_threshold=0.05,
        validation_batch_size=3,
        **given,
    )
    trained = run(data, hp, model_dir)
    assert all(epoch["pixels"] == epoch["records"] * SIDE**2 for epoch in trained.epochs)
    assert trained.epochs[0]["records"] > 8
    # another size of batches, or a graph, rounds differently: here two figures are to be of the same boxes
    predictor = Predictor.load(model_dir, batch_size=hp.validation_batch_size, backend="eager")
    assert predictor.plan.tiling.kind == ("grid" if "tile_grid_size" in given else "pyramid")
    assert data.validation is not None
    metrics = evaluate(
        predictor, data.validation.one_pass(), data.validation.issues, voc=VocMetric(points="all")
    )
    logged = description(model_dir)["metrics"]
    assert metrics is not None
    assert flat({key: logged[key] for key in metrics}) == pytest.approx(flat(metrics), abs=1e-6)


def test_train__the_next_epoch_is_loaded_while_the_model_is_validated(
    data: DataSet, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tmp_path / "loaded"
    loaded.touch()
    found: list[int] = []

    def noting(*arguments: Any, **options: Any) -> Any:
        with loaded.open("a") as file:
            file.write("a view\n")
        return make_sample(*arguments, **options)

    def waiting(predictor: Predictor, stop: StopToken) -> float:
        end = time.monotonic() + (20 if not found else 1)  # there is no epoch after the second
        while len(loaded.read_text().splitlines()) < 8 * (len(found) + 2) and time.monotonic() < end:
            time.sleep(0.01)
        found.append(len(loaded.read_text().splitlines()))
        return 0.5

    monkeypatch.setattr(dataset, "make_sample", noting)  # in the loader process, which is forked later
    trained = run(data, plain_hp(number_of_epochs=2, num_workers=1), model_dir, StandIn(), waiting)
    assert found == [16, 16] and [epoch["records"] for epoch in trained.epochs] == [8, 8]
