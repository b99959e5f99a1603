"""The loop of training on channels in Pipe mode."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_instances import make_instances
from PIL import Image
from pipe_platform import PipePlatform, image_record, manifest
from small_training import plain_hp
from stand_ins import make_job
from tilewise.data.channel import ChannelFolder, ChannelPipe, DataSet, read_data_set
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.instances import Instances
from tilewise.models.detector import Detector
from tilewise.stop import StopWhen
from tilewise.targets import Targets
from tilewise.tasks.detection.fit_spec import fit_spec
from tilewise.training.job.validation import test as score_test
from tilewise.training.train import train
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("no_hang")
SIDE = 64


class Steady(Detector):
    """Its gradient is always 1 for the bias; it finds one object in an image, where its first pixel says."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 1), *3 * [nn.Identity()])
        nn.init.zeros_(self.network.bias)  # type: ignore[arg-type]
        self.batches: list[int] = []

    def forward(
        self, images: Iterable[Tensor], targets: Iterable[Targets[Tensor]] | None = None
    ) -> dict[str, Tensor] | list[Instances]:
        if targets is not None:
            self.batches.append(len(list(targets)))
            return {"classification": self.network.get_parameter("bias").sum()}
        found = []
        for image in images:
            x = float(image[0, 0, 0])
            found.append(make_instances([[x, 0, x + 20, 20]], [1], [0]))
        return found


@pytest.fixture
def detector() -> Steady:
    return Steady()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def photograph(x: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (x, 0, 0)).save(file, "PNG")
    return file.getvalue()


def records(count: int, as_manifest: bool = False) -> bytes:
    if as_manifest:
        return b"".join(manifest(photograph(x), [("0", x, 0, 20, 20)]) for x in range(count))
    labels = [[2.0, 5.0, 0, x / SIDE, 0, (x + 20) / SIDE, 20 / SIDE] for x in range(count)]
    return b"".join(image_record(label, photograph(x), x) for x, label in enumerate(labels))


def saved_classes(model_dir: Path) -> Any:
    return json.loads((model_dir / "model.json").read_text())["classes"]


pipe_hp = partial(
    plain_hp,
    image_size=SIDE,
    num_classes=1,
    num_training_samples=10,
    number_of_epochs=2,
    learning_rate=0.1,
    nesterov=0,
)


def piped(stack: ExitStack, folder: Path, hp: Hyperparameters, **channels: list[bytes]) -> DataSet:
    """A data set of channels in Pipe mode."""
    folder.mkdir(exist_ok=True)
    facts: dict[str, ChannelPipe] = {}
    for name, passes in channels.items():
        stack.enter_context(PipePlatform(folder / name, passes))
        images = hp.num_training_samples if name == "train" else None
        facts[name] = ChannelPipe(folder / name, "application/x-recordio", len(passes), images)
    data = read_data_set(
        facts, hp.num_classes, validation_share=0.2, validates="validation" in channels, seed=0
    )
    stack.callback(data.close)
    return data


def test_train__both_channels_in_pipes(stack: ExitStack, tmp_path: Path, detector: Steady) -> None:
    hp = pipe_hp()
    data = piped(stack, tmp_path / "in", hp, train=[records(10)] * 2, validation=[records(6, True)] * 2)
    trained = train(data, make_job(hp, tmp_path, detector))
    assert [epoch["records"] for epoch in trained.epochs] == [12, 12]
    assert detector.batches == [4] * 6
    assert trained.best["AP"] == 1  # each image with its own objects
    assert not trained.stopped and saved_classes(tmp_path) == ["0"]


def test_train__statistics_of_normalisation_are_of_batches_that_were_kept(
    stack: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hp = pipe_hp(model_name="yolox_nano", optimizer="adamw", learning_rate=0.001)
    data = piped(stack, tmp_path / "in", hp, train=[records(10)] * 2, validation=[records(6)] * 2)
    train(data, make_job(hp, tmp_path))
    assert "statistics of normalisation are computed anew, of 3 random batches" in caplog.text


def test_train__false_positives_cannot_be_looked_for_in_a_pipe(stack: ExitStack, tmp_path: Path) -> None:
    hp = pipe_hp(training_views="sniper", pyramid_scales="1,2", negative_views="false_alarms")
    data = piped(stack, tmp_path / "in", hp, train=[records(10)] * 2)
    with pytest.raises(UserError, match=r"negative_views=false_alarms .* use input mode File"):
        train(data, make_job(hp, tmp_path))


def test_train__the_same_figures_as_from_files(stack: ExitStack, tmp_path: Path, detector: Steady) -> None:
    hp = pipe_hp(number_of_epochs=1)
    content = records(6)
    folders = {name: ChannelFolder(tmp_path / "files" / name) for name in ("train", "validation")}
    for folder in folders.values():
        folder.path.mkdir(parents=True)
        (folder.path / "data.rec").write_bytes(content)
    from_files = train(
        read_data_set(folders, 1, validation_share=0.2, validates=True, seed=0),
        make_job(hp, tmp_path, detector),
    )
    data = piped(stack, tmp_path / "pipes", hp, train=[content], validation=[content])
    from_pipes = train(data, make_job(hp, tmp_path, detector))
    assert from_pipes.epochs[0]["validation"] == from_files.epochs[0]["validation"]
    assert from_pipes.epochs[0]["records"] == from_files.epochs[0]["records"] == 8


def test_train__pipe_to_train_and_files_to_validate(
    stack: ExitStack, tmp_path: Path, detector: Steady
) -> None:
    hp = pipe_hp(number_of_epochs=1)
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "a.rec").write_bytes(records(5))
    stack.enter_context(PipePlatform(tmp_path / "train", [records(10)]))
    data = read_data_set(
        {
            "train": ChannelPipe(tmp_path / "train", images=10),
            "validation": ChannelFolder(tmp_path / "validation"),
        },
        1,
        validation_share=0.2,
        validates=True,
        seed=0,
    )
    stack.callback(data.close)
    assert train(data, make_job(hp, tmp_path, detector)).best["AP"] == 1


def test_train__objects_are_pasted(
    stack: ExitStack, tmp_path: Path, detector: Steady, caplog: pytest.LogCaptureFixture
) -> None:
    """Each image once more in each pass, among them such with an object of another one."""
    chosen = {"copy_paste": 1, "copy_paste_source": "any", "mosaic": 0.5, "orientation": "any"}
    hp = pipe_hp(validation_metric_type="none", **chosen)
    caplog.set_level("INFO")
    data = piped(stack, tmp_path / "in", hp, train=[records(10)] * 2)
    trained = train(data, make_job(hp, tmp_path, detector))
    assert [epoch["records"] for epoch in trained.epochs] == [20, 20]
    assert caplog.text.count("10 of 10 images of this pass came once more, with 10 objects pasted") == 2


@pytest.mark.parametrize(("accumulate", "updates"), [(1, 6), (2, 4), (3, 2), (5, 2)])
def test_train__accumulated_gradients_are_used_at_the_end_of_an_epoch(
    stack: ExitStack, tmp_path: Path, detector: Steady, accumulate: int, updates: int
) -> None:
    hp = pipe_hp(gradient_accumulation_step=accumulate, validation_metric_type="none")
    train(piped(stack, tmp_path / "in", hp, train=[records(10)] * 2), make_job(hp, tmp_path, detector))
    assert detector.network.get_parameter("bias").item() == pytest.approx(-0.1 * updates)


def test_train__wrong_number_of_training_samples(
    stack: ExitStack, tmp_path: Path, detector: Steady, caplog: pytest.LogCaptureFixture
) -> None:
    hp = pipe_hp(
        num_training_samples=2,
        number_of_epochs=3,
        step_lr_step_size=1,
        step_lr_gamma=0.1,
        validation_metric_type="none",
    )
    train(piped(stack, tmp_path / "in", hp, train=[records(10)] * 3), make_job(hp, tmp_path, detector))
    # three steps an epoch, each epoch at a tenth of the rate of the last one
    assert detector.network.get_parameter("bias").item() == pytest.approx(-3 * (0.1 + 0.01 + 0.001))
    told = [record.getMessage() for record in caplog.records if "num_training_samples" in record.getMessage()]
    assert told == [
        "num_training_samples is 2, but the first pass of channel train had 10 images: these count"
    ]


def test_train__too_many_damaged_images_at_the_end_of_a_pass(
    stack: ExitStack, tmp_path: Path, detector: Steady
) -> None:
    hp = pipe_hp(num_training_samples=1000, validation_metric_type="none")
    bad = image_record([2.0, 5.0], photograph(0)[:-30] + b"damaged pixels", 77)
    data = piped(stack, tmp_path / "in", hp, train=[records(9) + bad] * 2)
    with pytest.raises(
        UserError, match=r"channel train: 1 of 10 images cannot be used.*train_0#9 \(id 77\): "
    ):
        train(data, make_job(hp, tmp_path, detector))


def test_train__a_writer_dies_in_a_later_epoch(stack: ExitStack, tmp_path: Path, detector: Steady) -> None:
    hp = pipe_hp(validation_metric_type="none")
    data = piped(stack, tmp_path / "in", hp, train=[records(10), records(10)[:-5]])
    with pytest.raises(UserError, match="train_1 is damaged in record 9"):
        train(data, make_job(hp, tmp_path, detector))


def test_train__stopped_while_it_waits_for_the_next_epoch(
    stack: ExitStack, tmp_path: Path, detector: Steady
) -> None:
    hp, stop = pipe_hp(validation_metric_type="none"), threading.Event()
    stack.enter_context(PipePlatform(tmp_path / "train", [records(10)]))
    channel = ChannelPipe(tmp_path / "train", passes=2, images=10)
    data = read_data_set(
        {"train": channel}, 1, validation_share=0.2, validates=False, seed=0, stop=StopWhen(stop.is_set)
    )
    stack.callback(data.close)

    def stop_after_the_epoch() -> None:
        while len(detector.batches) < 3:
            time.sleep(0.01)
        time.sleep(0.5)
        stop.set()

    threading.Thread(target=stop_after_the_epoch, daemon=True).start()
    trained = train(data, make_job(hp, tmp_path, detector, stop=StopWhen(stop.is_set)))
    assert trained.stopped and [epoch["records"] for epoch in trained.epochs] == [12, 0]
    assert saved_classes(tmp_path) == ["0"]


def test_make_spec__follows_the_first_images(stack: ExitStack, tmp_path: Path) -> None:
    crowd = [2.0, 5.0] + [value for one in range(70) for value in (0, 0.1, 0.1, 0.15, 0.15 + one / 1000)]
    hp = pipe_hp(number_of_epochs=1, image_size=300)
    spec = fit_spec(hp, piped(stack, tmp_path, hp, train=[records(9) + image_record(crowd, photograph(9))]))
    assert spec.detections_per_view == 140
    assert spec.anchor_sizes and spec.anchor_sizes[0] < 0.1


def test_test__through_a_pipe(stack: ExitStack, tmp_path: Path, model_folder: Path) -> None:
    hp = parse_hyperparameters({"num_classes": 1, "num_training_samples": 3})
    data = piped(stack, tmp_path, hp, train=[records(3)], test=[records(3)])
    assert data.test is not None
    figures: Any = score_test(data.test, make_job(hp, model_folder))
    assert np.isfinite(figures["AP"])
