from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipe_platform import PipePlatform, image_record, manifest, png
from tilewise.data.channel import ChannelFolder, ChannelPipe, DataSet, read_data_set
from tilewise.data.choice import DataChoice
from tilewise.data.pipe.fifo import StopWaiting
from tilewise.data.pipe.stream import Stream
from tilewise.errors import UserError
from tilewise.stop import StopWhen

pytestmark = pytest.mark.usefixtures("no_hang")
RECORD = image_record([2.0, 5.0, 1.0, 0.25, 0.5, 0.75, 1.0], png())
NAMES = {"class-map": {"0": "dog", "5": "cat"}}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def read(stack: ExitStack, channels: dict[str, Any], num_classes: int | None = 2, **options: Any) -> DataSet:
    data = read_data_set(channels, num_classes, **{"validation_share": 0.2, **DEFAULTS, **options})
    stack.enter_context(closing(data))
    return data


DEFAULTS = {"validates": False, "seed": 0}


def pipe(stack: ExitStack, path: Path, content: bytes, images: int | None = 3) -> ChannelPipe:
    stack.enter_context(PipePlatform(path, [content]))
    return ChannelPipe(path, "application/x-recordio", 1, images)


def folder(path: Path, content: bytes) -> ChannelFolder:
    path.mkdir()
    (path / "data.rec").write_bytes(content)
    return ChannelFolder(path)


def names_of_pipe_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pipe ")]


def test_classes__names_that_come_along(stack: ExitStack, tmp_path: Path) -> None:
    metadata = {"class-map": {"0": "dog", "1": "cat"}}
    content = manifest(png(), [(0, 0, 0, 5, 5)], metadata=metadata) * 2
    data = read(stack, {"train": pipe(stack, tmp_path / "train", content)}, 3)
    assert data.classes == ("dog", "cat", "2")


def test_classes__of_a_class_map(stack: ExitStack, tmp_path: Path) -> None:
    content = manifest(png(), [("5", 0, 0, 5, 5), (0, 0, 0, 5, 5)], metadata=NAMES)
    validation = image_record([2, 5, 5, 0, 0, 1, 1], png())
    channels = {
        "train": pipe(stack, tmp_path / "train", content),
        "validation": folder(tmp_path / "validation", validation),
    }
    data = read(stack, channels, None, validates=True, class_map={0: "Hund", 5: "Katze"})
    assert data.classes == ("Hund", "Katze")
    (record,) = data.train.one_pass()
    assert record.targets.labels.tolist() == [1, 0]
    assert data.validation is not None and data.validation.sample.targets.labels.tolist() == [1]


def test_channels__modes_may_differ(stack: ExitStack, tmp_path: Path) -> None:
    channels = {
        "train": folder(tmp_path / "train", RECORD * 2),
        "validation": pipe(stack, tmp_path / "validation", RECORD * 3, None),
        "test": pipe(stack, tmp_path / "test", RECORD * 4, None),
    }
    data = read(stack, channels, validates=True)
    assert isinstance(data.validation, Stream) and isinstance(data.test, Stream)
    assert [len(list(split.one_pass())) for split in (data.train, data.validation, data.test)] == [2, 3, 4]
    data.close()
    assert names_of_pipe_threads() == []


def test_table__says_that_the_rest_streams(
    stack: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    content = RECORD * 2 + image_record([2, 5], png())
    read(stack, {"train": pipe(stack, tmp_path / "train", content)})
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(
        f"channel train streams through pipes, the first is {tmp_path / 'train_0'}; up to"
    )
    assert said[1] == "channel train holds RecordIO image records (train_0)"
    table = said[2].splitlines()
    assert table[2].split() == ["images", "3"] and table[3].split() == ["without", "objects", "1"]
    assert table[-1] == "train: these are the first images of its pipe; the others stream"


@pytest.mark.parametrize(
    ("facts", "num_classes", "words"),
    [
        (
            {"content_type": "text/csv"},
            2,
            "(content type application/x-recordio, image/jpeg or image/png), not content type text/csv",
        ),
        ({}, None, "channel train: input mode Pipe needs num_classes (or class_map)"),
        ({"images": None}, 2, "channel train: input mode Pipe needs num_training_samples"),
    ],
)
def test_refused__before_anything_is_read(
    stack: ExitStack, tmp_path: Path, facts: dict[str, Any], num_classes: int | None, words: str
) -> None:
    channel = ChannelPipe(tmp_path / "train", **{"images": 3, **facts})
    with pytest.raises(UserError) as error:
        read(stack, {"train": channel}, num_classes)
    assert words in str(error.value) and names_of_pipe_threads() == []


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/png", "application/x-image", ""])
def test_manifest__content_types_of_the_built_in(stack: ExitStack, tmp_path: Path, content_type: str) -> None:
    content = manifest(png(), [(0, 0, 0, 5, 5)]) + manifest(png(), [(1, 2, 2, 9, 9)])
    channel = replace(pipe(stack, tmp_path / "train", content, 2), content_type=content_type)
    assert len(read(stack, {"train": channel}).train.sample) == 2


def test_choice__of_classes_in_a_pipe(stack: ExitStack, tmp_path: Path) -> None:
    metadata = {"class-map": {"0": "dog", "1": "cat"}}
    content = manifest(png(), [(0, 0, 0, 5, 5), (1, 2, 2, 9, 9)], metadata=metadata) * 2
    data = read(stack, {"train": pipe(stack, tmp_path / "train", content, 2)}, 2, choice=DataChoice(("cat",)))
    assert data.classes == ("cat",) and data.train.sample.targets.labels.tolist() == [0, 0]


def test_refused__a_subset_of_a_pipe(stack: ExitStack, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="input mode Pipe shows all images, one after the other: leave max_i"):
        read(stack, {"train": ChannelPipe(tmp_path / "train", images=3)}, choice=DataChoice(max_images=2))


def test_boxes__of_which_too_many_cannot_be_used(stack: ExitStack, tmp_path: Path) -> None:
    content = image_record([2, 5, 1, 0.5, 0.5, 0.2, 0.1, 0, 0.1, 0.1, 0.5, 0.5], png()) * 4
    with pytest.raises(UserError, match=r"4 of 8 boxes cannot be used, more than 5% \(are they x, y, width"):
        read(stack, {"train": pipe(stack, tmp_path / "train", content, 4)})


def test_refused__annotation_channel(stack: ExitStack, tmp_path: Path) -> None:
    channels = {
        "train": folder(tmp_path / "train", RECORD),
        "train_annotation": ChannelPipe(tmp_path / "train_annotation"),
    }
    with pytest.raises(
        UserError, match=r"channel train_annotation: input mode Pipe takes .*, not annotation ch"
    ):
        read(stack, channels)


def test_refused__no_validation_channel(stack: ExitStack, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the channel validation is missing: no training images can be set"):
        read(stack, {"train": ChannelPipe(tmp_path / "train", images=3)}, validates=True)


def test_refused__names_in_files_and_numbers_in_the_pipe(stack: ExitStack, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "coco.json").write_text('{"images": [], "categories": [{"id": 1, "name": "ant"}]}')
    channels = {
        "train": ChannelFolder(tmp_path / "train"),
        "validation": pipe(stack, tmp_path / "validation", RECORD, None),
    }
    with pytest.raises(UserError, match="the classes of train are names, of validation numbers"):
        read(stack, channels, validates=True)
    assert names_of_pipe_threads() == []


def test_stop__while_the_first_images_are_awaited(tmp_path: Path, stack: ExitStack) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()
    with pytest.raises(StopWaiting):
        read(stack, {"train": ChannelPipe(tmp_path / "train", images=3)}, stop=StopWhen(stop.is_set))
    assert time.monotonic() - start < 2 and names_of_pipe_threads() == []
