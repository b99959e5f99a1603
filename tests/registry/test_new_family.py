"""All that a new family of models needs is one module and one entry."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from dots import DOTS
from squares import squares_split
from stand_ins import make_job
from tilewise.data.channel import DataSet, Split
from tilewise.errors import UserError
from tilewise.hyperparameters import as_markdown, parse_hyperparameters
from tilewise.inference.artifact import Artifact
from tilewise.inference.model_card import ModelCard
from tilewise.inference.predictor import Predictor
from tilewise.registry import register, unregister
from tilewise.serving.app import create_app
from tilewise.serving.compute import ComputeThread
from tilewise.serving.models import Model
from tilewise.serving.served_model import ServedModel
from tilewise.serving.settings import Settings
from tilewise.stop import StopWhen
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.history import TrainResult
from tilewise.training.job.initial_model import read_initial_model
from tilewise.training.train import Start, train


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register(DOTS)
    yield
    unregister("dots")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("images")
    images = squares_split(folder, "train", 64, 12)
    return DataSet(("dot",), images, squares_split(folder, "validation", 64, 4, seed=1))


def run(
    data: DataSet, base: Path, checkpoints: str, stop_after: int | None = None, **given: object
) -> tuple[Path, TrainResult]:
    """A job on a machine of its own, which finds what the checkpoints of that name hold."""
    raw = {"model_name": "dots_s", "num_workers": 0, "optimizer": "adam"} | given
    model, asked = base / f"model-{len(list(base.iterdir()))}", count(1)
    model.mkdir()
    (base / checkpoints).mkdir(exist_ok=True)
    kept = Checkpoints(base / checkpoints)
    stop = StopWhen(lambda: stop_after is not None and next(asked) > stop_after)
    job = make_job(parse_hyperparameters(raw), model, stop=stop)
    return model, train(data, job, Start(checkpoints=kept, state=kept.newest()))


def test_hyperparameters__know_it() -> None:
    hp = parse_hyperparameters({"model_name": "dots_m"})
    assert (hp.image_size, hp.min_size, hp.number_of_epochs, hp.learning_rate) == (64, None, 3, 0.02)
    assert parse_hyperparameters({"model_name": "dots_m", "image_size": "96"}).image_size == 96
    for given, message in (
        ({"model_name": "dots_l"}, "did you mean dots_"),
        ({"model_name": "dots_s", "min_size": "64"}, "dots_s takes image_size"),
        ({"model_name": "dots_s", "stride_4_level": "1"}, "dots_s has no such level"),
    ):
        with pytest.raises(UserError, match=message):
            parse_hyperparameters(given)
    page = as_markdown()
    assert "| `dots_m` | `image_size` | `detection` |" in page
    assert re.search(r"`number_of_epochs` .* 15 \(yolox: 30\) \(maskyolox: 30\) \(dots: 3\) ", page)
    assert "`ssd*` and `yolox_*` and `maskyolox_*` and `dots_*`" in page


def test_job__stopped_and_resumed_ends_as_one_that_was_left_alone(data: DataSet, tmp_path: Path) -> None:
    expected, whole = run(data, tmp_path, "left_alone")
    for moment in (2, 6):
        assert run(data, tmp_path, "stopped", stop_after=moment)[1].stopped
    model, resumed = run(data, tmp_path, "stopped")
    assert not whole.stopped and not resumed.stopped
    assert [epoch["losses"] for epoch in resumed.epochs] == [epoch["losses"] for epoch in whole.epochs]
    one, other = (next(folder.glob("*.safetensors")) for folder in (expected, model))
    assert one.read_bytes() == other.read_bytes()


def test_job__logs_its_losses_and_freezes_its_stages(
    data: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model, trained = run(data, tmp_path, "none", layers_to_freeze=2, number_of_epochs=1)
    reason = "use_pretrained_model=1, but no weights of dots_s are published: training from scratch"
    assert [entry.levelname for entry in caplog.records if entry.message == reason] == ["WARNING"]
    assert Artifact.load(model).environment["trained_from_scratch"] == trained.from_scratch == reason
    assert (
        "frozen: 6 of 11 parameters, and the statistics of 2 normalisation layers: body.stage0" in caplog.text
    )
    losses = trained.epochs[0]["losses"]
    assert losses.keys() == {"presence", "sides"}
    out = capsys.readouterr().out
    assert f"<loss>={losses['presence']:f}"[:12] in out or "cross_entropy" in out


def test_model__is_saved_and_served(data: DataSet, tmp_path: Path) -> None:
    model, _ = run(
        data, tmp_path, "kept", number_of_epochs=25, evaluation_frequency=25, random_windows=0, seed=1
    )
    artifact = Artifact.load(model)
    assert artifact.spec.name == "dots_s" and artifact.classes == ("dot",)
    assert read_initial_model(model).spec == artifact.spec

    thread = ComputeThread(30, 60, lambda: None)
    served = ServedModel(lambda: Predictor.load(model), thread, lambda: None, on_breakdown=lambda: None)
    thread.start()
    while not served.ready:
        time.sleep(0.01)
    http = create_app(Model(served, ModelCard.read(model)), Settings()).test_client()
    assert isinstance(data.train, Split)
    record = data.train.records[3]
    answer = http.post("/invocations", data=record.read(), content_type="image/png")
    best = answer.get_json()["prediction"][:3]
    assert [row[0] for row in best] == [0, 0, 0]
    for box in (record.targets.boxes / 64).tolist():
        assert any(row[2:] == pytest.approx(box, abs=0.08) for row in best)
