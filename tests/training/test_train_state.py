"""A run that is interrupted anywhere and resumed ends as one that was left alone, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipe_platform import PipePlatform, image_record
from small_training import Nothing, mean_colours
from squares import squares_split
from stand_ins import make_hp, make_job
from tilewise.data.channel import ChannelPipe, DataSet, Split, read_data_set
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.inference.predictor import Predictor
from tilewise.inference.torch_backend import TorchBackend
from tilewise.models.detector import Detector
from tilewise.models.spec import DetectorSpec
from tilewise.registry import Model, ModelFamily, register, unregister
from tilewise.stop import StopToken, StopWhen
from tilewise.targets import Targets
from tilewise.training.checkpointing.checkpoints import Checkpoints
from tilewise.training.history import TrainResult
from tilewise.training.train import Start, train
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("no_hang")
SIDE = 64
IMAGES = 10


def noisy_error(found: Tensor, targets: Sequence[Targets[Tensor]]) -> dict[str, Tensor]:
    counts = torch.tensor([[len(each)] for each in targets]).float()
    return {"classification": (found * (1 + torch.rand(())) - counts).square().mean()}


class Noisy(Detector):
    """A linear function of the mean colours, with random numbers in its loss and statistics of batches."""

    def __init__(self) -> None:
        network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
        super().__init__(network, mean_colours, noisy_error, Nothing())


def scored(predictor: Predictor, stop: StopToken) -> float | None:
    """Any figure that the weights decide, asked for a request to stop as the real one is."""
    for _ in range(3):
        if stop.requested:
            return None
    assert isinstance(predictor.backend, TorchBackend)
    state = predictor.backend.model.state_dict().values()
    return abs(float(sum(tensor.double().sum() for tensor in state))) % 1


def build_noisy(spec: DetectorSpec) -> Detector:
    return Noisy()


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """So that a saved model is read again for the report."""
    family = ModelFamily(
        name="noisy",
        pattern="noisy",
        builder=f"{__name__}:build_noisy",
        scaling="square",
        classification_losses=frozenset({"classification"}),
        models=(Model("noisy"),),
    )
    register(family)
    yield
    unregister("noisy")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return list(squares_split(tmp_path_factory.mktemp("images"), "train", SIDE, IMAGES).records)


def data_of(images: list[Record]) -> DataSet:
    records = Records(images)
    splits = (Split(records, ChannelIssues(name, images=len(records))) for name in ("train", "validation"))
    return DataSet(("dot",), *splits)


noisy_hp = partial(
    make_hp,
    model_name="noisy",
    image_size=SIDE,
    number_of_epochs=3,
    warmup_cosine_lr_warmup_epochs=1,
    optimizer="adam",
    learning_rate=0.05,
)


class Job:
    """A job on a machine of its own: an empty model folder; checkpoints are brought along."""

    def __init__(self, base: Path, name: str, checkpoints: Path, job_name: str = ""):
        self.model_dir, self.checkpoints, self.name = base / name, checkpoints, job_name
        self.model_dir.mkdir()
        checkpoints.mkdir(exist_ok=True)
        self.asked = 0

    def run(self, data: DataSet, hp: Hyperparameters, stop_after: int | None = None) -> TrainResult:
        def should_stop() -> bool:
            self.asked += 1
            return stop_after is not None and self.asked > stop_after

        checkpoints = Checkpoints(self.checkpoints)
        job = make_job(
            hp,
            self.model_dir,
            evaluate_as=scored,
            stop=StopWhen(should_stop),
            checkpoint_dir=self.checkpoints,
            name=self.name,
            environment={"cpu": "x"},
        )
        return train(data, job, Start(checkpoints=checkpoints, state=checkpoints.newest()))

    @property
    def model(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.model_dir.iterdir()}


def figures(trained: TrainResult) -> list[dict[str, Any]]:
    timed = ("seconds", "validation_seconds")
    return [{name: value for name, value in epoch.items() if name not in timed} for epoch in trained.epochs]


def last_learner(folder: Path) -> dict[str, Any]:
    state = Checkpoints(folder).newest()
    assert state is not None
    train_step: dict[str, Any] = state["parts"]["train_step"] | {"random": state["processes"][0]["random"]}
    return train_step


def assert_same(one: Any, other: Any) -> None:
    """Equal to the bit, however nested."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


CASES: dict[str, dict[str, object]] = {
    "plain": {"number_of_epochs": 2},
    "accumulation": {"gradient_accumulation_step": 2, "optimizer": "sgd", "momentum": 0.9},
    "rare": {"checkpoint_frequency": 2, "evaluation_frequency": 2, "number_of_epochs": 4},
    "one_worker": {"num_workers": 1, "number_of_epochs": 2},
    "average": {"ema_decay": 0.99, "number_of_epochs": 2},
    "multi_scale": {"multi_scale": 1, "number_of_epochs": 2},
    "copy_paste": {"copy_paste": 1, "copy_paste_source": "any", "number_of_epochs": 2},
    "everything": {
        "copy_paste": 1,
        "copy_paste_source": "any",
        "copy_paste_balance": 1,
        "copy_paste_repeats": 2,
        "tile_grid_size": "2x1",
        "multi_scale": "0.5,1,1.5",
        "orientation": "any",
        "rotation": 10,
        "shear": 3,
        "degradation": 0.3,
        "mosaic": 0.5,
        "mixup": 0.5,
        "plain_epochs": 1,
        "ema_decay": 0.99,
        "gradient_accumulation_step": 2,
        "number_of_epochs": 2,
    },
    "sniper": {
        "training_views": "sniper",
        "pyramid_scales": "1,2",
        "negative_views": "false_alarms",
        "negative_views_ratio": 1,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_resume__after_a_stop_at_any_moment_changes_nothing(
    case: str, images: list[Record], tmp_path: Path
) -> None:
    hp, data = noisy_hp(**CASES[case]), data_of(images)
    undisturbed = Job(tmp_path, "undisturbed", tmp_path / "undisturbed_checkpoints")
    expected = undisturbed.run(data, hp)
    assert not expected.stopped and len(undisturbed.model) == 2
    final = last_learner(undisturbed.checkpoints)
    every = {"plain": 1, "accumulation": 2, "one_worker": 7, "everything": 9}.get(case, 4)
    for moment in range(0, undisturbed.asked, every):
        checkpoints = tmp_path / f"checkpoints-{moment}"
        first = Job(tmp_path, f"first-{moment}", checkpoints)
        assert first.run(data, hp, stop_after=moment).stopped
        second = Job(tmp_path, f"second-{moment}", checkpoints)
        trained = second.run(data, hp)
        assert not trained.stopped
        assert figures(trained) == figures(expected), f"stopped when asked the {moment}th time"
        assert trained.best == expected.best and trained.scored is not None
        assert second.model == undisturbed.model
        assert_same(last_learner(checkpoints), final)


def test_resume__stopped_again_and_again(images: list[Record], tmp_path: Path) -> None:
    hp, data = noisy_hp(gradient_accumulation_step=2), data_of(images)
    undisturbed = Job(tmp_path, "undisturbed", tmp_path / "undisturbed_checkpoints")
    expected = undisturbed.run(data, hp)
    for number in range(30):
        job = Job(tmp_path, f"part-{number}", tmp_path / "checkpoints")
        trained = job.run(data, hp, stop_after=5)
        assert len(list(job.checkpoints.iterdir())) <= 2
        assert len(job.model) == 2
        if not trained.stopped:
            break
    assert number > 3
    assert figures(trained) == figures(expected)
    assert job.model == undisturbed.model


def objects_of(record: Record) -> list[float]:
    return [number for box in (record.targets.boxes / SIDE).tolist() for number in (0, *box)]


@pytest.mark.parametrize(
    ("given", "shown"),
    [({}, 12), ({"copy_paste": 1, "copy_paste_source": "any", "mosaic": 0.5, "orientation": "any"}, 20)],
    ids=["plain", "pasted"],
)
def test_resume__a_pipe_begins_with_its_first_fifo_again(
    given: dict[str, object], shown: int, images: list[Record], tmp_path: Path
) -> None:
    content = b"".join(
        image_record([2.0, 5.0, *objects_of(record)], record.read(), index)
        for index, record in enumerate(images)
    )
    hp = noisy_hp(num_classes=1, num_training_samples=IMAGES, number_of_epochs=3, **given)

    def run(name: str, checkpoints: str, passes: int, stop_after: int | None) -> tuple[Job, TrainResult]:
        job = Job(tmp_path, name, tmp_path / checkpoints)
        with ExitStack() as stack:
            facts: dict[str, ChannelPipe] = {}
            for channel in ("train", "validation"):
                path = tmp_path / f"{name}-{channel}"
                stack.enter_context(PipePlatform(path, [content] * passes))
                facts[channel] = ChannelPipe(path, "application/x-recordio", passes, IMAGES)
            data = read_data_set(facts, 1, validates=True, seed=0)
            stack.callback(data.close)
            return job, job.run(data, hp, stop_after)

    undisturbed, expected = run("undisturbed", "undisturbed_checkpoints", 3, None)
    assert [epoch["records"] for epoch in expected.epochs] == [shown] * 3
    for moment in range(0, undisturbed.asked, 4):
        _, stopped = run(f"first-{moment}", f"checkpoints-{moment}", 3, moment)
        assert stopped.stopped
        job, trained = run(f"second-{moment}", f"checkpoints-{moment}", 3, None)
        assert figures(trained) == figures(expected), f"stopped when asked the {moment}th time"
        assert job.model == undisturbed.model


def test_resume__after_the_last_epoch_only_leaves_the_model_again(
    images: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hp, data = noisy_hp(), data_of(images)
    first = Job(tmp_path, "first", tmp_path / "checkpoints")
    first.run(data, hp)
    second = Job(tmp_path, "second", tmp_path / "checkpoints")
    assert len(second.run(data, hp).epochs) == 3
    assert second.model == first.model
    assert "number_of_epochs=3 and all of them are done: nothing is left to train" in caplog.text


def test_resume__after_an_early_stop_does_not_go_on(images: list[Record], tmp_path: Path) -> None:
    hp = noisy_hp(number_of_epochs=9, early_stopping_patience=1, early_stopping_delay=1, learning_rate=1e-9)
    epochs = len(Job(tmp_path, "first", tmp_path / "checkpoints").run(data_of(images), hp).epochs)
    assert epochs < 9
    assert len(Job(tmp_path, "second", tmp_path / "checkpoints").run(data_of(images), hp).epochs) == epochs


def test_resume__with_fewer_processes_goes_on_after_the_same_share_of_the_epoch(
    images: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hp, data, folder = noisy_hp(training_batch_size=2), data_of(images), tmp_path / "checkpoints"
    Job(tmp_path, "first", folder).run(data, hp, stop_after=1)
    checkpoints = Checkpoints(folder)
    state = checkpoints.newest()
    assert state is not None and len(state["processes"]) == 1
    checkpoints.save({**state, "processes": state["processes"] * 2})
    trained = Job(tmp_path, "second", folder).run(data, hp)
    assert "is of 2 processes with training_batch_size=2, now there are 1 with 2: the" in caplog.text
    # the two batches of the first process, and the last of the five
    assert [epoch["records"] for epoch in trained.epochs] == [6, 10, 10]


def test_resume__with_another_batch_goes_on_after_the_same_share_of_the_epoch(
    images: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, folder = data_of(images), tmp_path / "checkpoints"
    Job(tmp_path, "first", folder).run(data, noisy_hp(training_batch_size=2), stop_after=1)
    trained = Job(tmp_path, "second", folder).run(data, noisy_hp(training_batch_size=4))
    assert "now there are 1 with 4: the epoch goes on after 1 of its batches" in caplog.text
    assert [epoch["records"] for epoch in trained.epochs] == [12, 12, 12], "whole batches"


def test_resume__minutes_do_not_replace_the_epochs_of_a_run(
    images: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hp, data, folder = noisy_hp(), data_of(images), tmp_path / "checkpoints"
    Job(tmp_path, "first", folder).run(data, hp, stop_after=1)
    trained = Job(tmp_path, "second", folder).run(data, hp.model_copy(update={"minutes": 30.0}))
    assert len(trained.epochs) == 3
    assert "minutes=30 has no effect: the run of the checkpoint has number_of_epochs=3" in caplog.text


def test_resume__with_more_epochs_goes_on(
    images: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_of(images)
    given: dict[str, object] = {"learning_rate_scheduler": "step", "step_lr_step_size": 1}
    long = Job(tmp_path, "long", tmp_path / "long_checkpoints")
    long.run(data, noisy_hp(number_of_epochs=4, **given))
    Job(tmp_path, "first", tmp_path / "checkpoints").run(data, noisy_hp(number_of_epochs=2, **given))
    second = Job(tmp_path, "second", tmp_path / "checkpoints")
    trained = second.run(data, noisy_hp(number_of_epochs=4, **given))
    assert [epoch["epoch"] for epoch in trained.epochs] == [0, 1, 2, 3]
    assert_same(last_learner(second.checkpoints), last_learner(long.checkpoints))
    assert "number_of_epochs=2, now 4" in caplog.text


@pytest.mark.parametrize("before", ["0", "1", "0.5,1"])
def test_resume__multi_scale_is_left_to_the_job_from_now_on(
    images: list[Record], tmp_path: Path, before: str
) -> None:
    data, checkpoints = data_of(images), tmp_path / "checkpoints"
    Job(tmp_path, "first", checkpoints).run(data, noisy_hp(number_of_epochs=1, multi_scale=before))
    trained = Job(tmp_path, "second", checkpoints).run(data, noisy_hp(number_of_epochs=2, multi_scale="auto"))
    assert len(trained.epochs) == 2 and trained.hp is not None
    factors = trained.hp.multi_scale
    assert isinstance(factors, tuple) and (factors == (0.5, 1)) == (before == "0.5,1")


def test_resume__another_learning_rate_counts_from_here_on(images: list[Record], tmp_path: Path) -> None:
    data = data_of(images)
    given: dict[str, object] = {"learning_rate_scheduler": "step"}
    Job(tmp_path, "first", tmp_path / "checkpoints").run(data, noisy_hp(**given), stop_after=4)
    second = Job(tmp_path, "second", tmp_path / "checkpoints")
    trained = second.run(data, noisy_hp(learning_rate=0.01, **given))
    assert [epoch["learning_rate"] for epoch in trained.epochs] == pytest.approx([0.05, 0.01, 0.01])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": 96}, "image_size=64, now 96"),
        ({"model_name": "ssd_resnet50"}, "model_name=noisy, now ssd_resnet50"),
        ({"optimizer": "sgd"}, "optimizer=adam, now sgd"),
        ({"layers_to_freeze": 1}, "layers_to_freeze=None, now 1"),
        ({"tile_grid_size": "2x2"}, "tile_grid_size=None, now [2, 2]"),
    ],
)
def test_resume__another_detector_is_refused(
    given: dict[str, object], words: str, images: list[Record], tmp_path: Path
) -> None:
    data = data_of(images)
    Job(tmp_path, "first", tmp_path / "checkpoints").run(data, noisy_hp(), stop_after=1)
    second = Job(tmp_path, "second", tmp_path / "checkpoints")
    with pytest.raises(UserError) as error:
        second.run(data, noisy_hp(**given))
    assert words in str(error.value)
    assert "Give CheckpointConfig another S3Uri or delete the checkpoint" in str(error.value)


def test_resume__other_classes_are_refused(images: list[Record], tmp_path: Path) -> None:
    data = data_of(images)
    Job(tmp_path, "first", tmp_path / "checkpoints").run(data, noisy_hp(), stop_after=1)
    other = DataSet(("cell",), data.train, data.validation)
    with pytest.raises(UserError, match="the classes dot, now cell"):
        Job(tmp_path, "second", tmp_path / "checkpoints").run(other, noisy_hp())


def test_resume__says_what_from_which_file(
    images: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data, checkpoints = data_of(images), tmp_path / "checkpoints"
    Job(tmp_path, "first", checkpoints, "monday").run(data, noisy_hp(), stop_after=1)
    (file,) = checkpoints.iterdir()
    Job(tmp_path, "second", checkpoints, "monday").run(data, noisy_hp(), stop_after=2)
    assert f"resumed from {file}: in epoch 0 after 2 batches of 3 epochs" in caplog.text
    assert "the checkpoint is of the job" not in caplog.text
    Job(tmp_path, "third", checkpoints, "tuesday").run(data, noisy_hp())
    assert "before the validation of epoch 0 of 3 epochs" in caplog.text
    assert "the checkpoint is of the job monday" in caplog.text


def test_resume__fitted_parts_are_the_checkpoints(images: list[Record], tmp_path: Path) -> None:
    Job(tmp_path, "first", tmp_path / "checkpoints").run(data_of(images), noisy_hp(), stop_after=4)
    crowd = np.tile(np.array([[0, 0, 5, 5]], np.float32), (80, 1))
    labels, ignored = np.zeros(80, np.int64), np.zeros(80, np.bool_)
    images = [*images, Record("more", images[0].path, SIDE, SIDE, Targets(crowd, labels, ignored))]
    second = Job(tmp_path, "second", tmp_path / "checkpoints")
    second.run(data_of(images), noisy_hp())
    assert json.loads(second.model["model.json"])["detector"]["detections_per_view"] == 100


def test_environment__is_in_the_description(images: list[Record], tmp_path: Path) -> None:
    job = Job(tmp_path, "job", tmp_path / "checkpoints")
    job.run(data_of(images), noisy_hp())
    assert json.loads(job.model["model.json"])["environment"] == {"cpu": "x"}
