from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import read_pictures, read_scalars
from made_instances import make_instances
from PIL import Image
from squares import squares_split
from stand_ins import Script, make_hp, make_job
from tilewise.data.channel import DataSet
from tilewise.data.records import Record, Records
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.beside_truth import COUNT
from tilewise.hyperparameters import Hyperparameters
from tilewise.stop import NEVER
from tilewise.targets import Targets
from tilewise.tasks.registry import make_task
from tilewise.training.job.tracking import TensorBoard, Tracker, Tracking, open_tracking
from tilewise.training.train import train

CLASSES = ("ant", "bee")
FIGURES = {"AP": 0.25, "AP50": 0.5, "AP_large": None, "AP_class": {"ant": 0.25}}


def make_epoch(number: int, **more: Any) -> dict[str, Any]:
    losses = {"classification": 2.0, "bbox_regression": 1.0}
    return {"epoch": number, "records": 8, "seconds": 2.0, "learning_rate": 0.1, "losses": losses, **more}


def make_scored(folder: Path, count: int) -> Scored:
    records, found = [], []
    for index in range(count):
        path = folder / f"{index}.png"
        Image.new("RGB", (400, 300), "grey").save(path)
        boxes = np.array([[0, 150, 100, 250], [200, 150, 300, 250]], np.float32)
        records.append(
            Record(path.name, path, 400, 300, Targets(boxes, np.array([0, 1]), np.zeros(2, np.bool_)))
        )
        found.append(
            make_instances(torch.tensor([[0.0, 150, 100, 250]]), torch.tensor([0.9]), torch.tensor([0]))
        )
    return Scored(Records(records), found)


class Broken:
    """A tracker whose server is away."""

    name = "Broken"

    def __init__(self) -> None:
        self.calls = 0

    def begin(self, hp: Hyperparameters) -> None:
        self.calls += 1

    def figures(self, values: Mapping[str, float], epoch: int, moment: float) -> None:
        self.calls += 1
        raise OSError("no route to host")

    picture: Callable[..., None]
    results: Callable[..., None]
    close: Callable[..., None]


@contextmanager
def begun(tracker: Tracker, history: Sequence[dict[str, Any]] = ()) -> Iterator[Tracking]:
    """Of a job of 20 epochs."""
    hp = make_hp(number_of_epochs=20)
    with Tracking([tracker]) as tracking:
        tracking.begin(hp, make_task(hp), history)
        yield tracking


def test_tensorboard__shows_each_epoch_at_once(tmp_path: Path) -> None:
    with begun(TensorBoard(tmp_path)) as tracking:
        tracking.trained(make_epoch(0))
        scalars = read_scalars(tmp_path)  # while the file is open
        tracking.validated(make_epoch(0, validation=FIGURES), None, CLASSES)
    assert scalars["loss/total"] == [(0, 3.0)]
    assert scalars["train/records_per_second"] == [(0, 4.0)]
    assert [rate for _, rate in scalars["train/learning_rate"]] == pytest.approx([0.1])
    assert scalars["memory/process_peak_GiB"][0][1] > 0.01
    scalars = read_scalars(tmp_path)
    assert scalars["validation/AP50"] == [(0, 0.5)]
    assert scalars["validation_AP_of/ant"] == [(0, 0.25)]
    assert "validation/AP_large" not in scalars, "there is no large object"


def test_tensorboard__a_resumed_job_tells_of_all_its_epochs(tmp_path: Path) -> None:
    history = [make_epoch(0, validation=FIGURES), make_epoch(1)]
    with begun(TensorBoard(tmp_path), history) as tracking:
        tracking.trained(make_epoch(2))
    scalars = read_scalars(tmp_path)
    assert [step for step, _ in scalars["loss/total"]] == [0, 1, 2]
    assert scalars["validation/AP"] == [(0, 0.25)]


def test_tensorboard__has_the_same_pictures_every_few_epochs(tmp_path: Path) -> None:
    scored = make_scored(tmp_path, 9)
    with begun(TensorBoard(tmp_path / "events")) as tracking:
        for number in range(20):
            tracking.validated(make_epoch(number, validation=FIGURES), scored, CLASSES)
    pictures = read_pictures(tmp_path / "events")
    assert len(pictures) == COUNT
    for tag, shown in pictures.items():
        assert [step for step, _ in shown] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19], tag
    picture = np.asarray(Image.open(io.BytesIO(pictures["validation/0.png"][0][1])))
    assert picture.shape == (300, 804, 3)
    truth, found = picture[:, :400], picture[:, 404:]
    bee = slice(245, 255), slice(220, 280)  # the lower side of its box: annotated, and not found
    assert truth[bee].std() > 10 > found[bee].std()


def test_tensorboard__no_picture_of_what_cannot_be_read(tmp_path: Path) -> None:
    scored = make_scored(tmp_path, 1)
    (tmp_path / "0.png").write_bytes(b"no image")
    with begun(TensorBoard(tmp_path / "events")) as tracking:
        tracking.validated(make_epoch(0, validation=FIGURES), scored, CLASSES)
    assert read_pictures(tmp_path / "events") == {}


def test_tracking__a_tracker_that_fails_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hp, broken = make_hp(), Broken()
    with Tracking([broken, TensorBoard(tmp_path)]) as tracking:
        tracking.begin(hp, make_task(hp), [])
        for number in range(3):
            tracking.trained(make_epoch(number))
    assert broken.calls == 2
    assert len(read_scalars(tmp_path)["loss/total"]) == 3
    (warning,) = [entry.message for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert warning == "Broken is left out from now on; the job goes on"


def test_open_tracking__a_folder_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").write_text("no folder")
    with open_tracking([tmp_path / "file" / "events", None, tmp_path / "events"], job_name="", stop=NEVER):
        pass
    assert "TensorBoard's events cannot be written" in caplog.text
    assert list((tmp_path / "events").iterdir())


def test_training__is_told_of_while_it_goes_on(tmp_path: Path) -> None:
    seen = []

    class Watching(TensorBoard):
        def figures(self, values: Mapping[str, float], epoch: int, moment: float) -> None:
            super().figures(values, epoch, moment)
            seen.append((epoch, "loss/total" in values, len(read_scalars(tmp_path / "events")["loss/total"])))

    (tmp_path / "model").mkdir()
    split = squares_split(tmp_path, "train", 64, 4)
    hp = make_hp(number_of_epochs=2, image_size=64)
    tracking = Tracking([Watching(tmp_path / "events")])
    job = make_job(hp, tmp_path / "model", evaluate_as=Script([0.1, 0.2]), tracking=tracking)
    with tracking:
        train(DataSet(("dot",), split, split), job)
    assert seen == [(0, True, 1), (0, False, 1), (1, True, 2), (1, False, 2)]
