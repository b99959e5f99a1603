from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipe_platform import PipePlatform, image_record, png, record_bytes
from tilewise import machine
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import check_example
from tilewise.data.formats.recordio import read_record_files
from tilewise.data.pipe import buffer, fifo
from tilewise.data.pipe.buffer import Pipe, buffer_bytes
from tilewise.data.pipe.fifo import StopWaiting
from tilewise.data.pipe.formats import StreamItem
from tilewise.errors import UserError
from tilewise.stop import NEVER, StopWhen

pytestmark = pytest.mark.usefixtures("no_hang")
LIMIT = 1 << 20
LABEL = [2.0, 5.0, 1.0, 0.25, 0.5, 0.75, 1.0]


def images(count: int, first: int = 0) -> bytes:
    return b"".join(image_record(LABEL, png(grey=first + index), index) for index in range(count))


def take(reader: Pipe) -> list[StreamItem]:
    """One pass; all of its bytes are given back."""
    taken = []
    for arrival in reader.items():
        reader.buffer.release(arrival.size)
        taken.append(arrival)
    return taken


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train"


@pytest.mark.parametrize("name", ["train", "head2", "difficult", "reencoded", "edge"])
def test_mxnet__same_records_as_from_the_file(shared_fixtures: Path, path: Path, name: str) -> None:
    file = shared_fixtures / "recordio" / f"{name}.rec"
    expected: Any = json.loads((file.parent / "expected.json").read_text())["sets"][name]["records"]
    examples = read_record_files({"train_0": file}).examples
    with PipePlatform(path, [file.read_bytes()], piece=70_000), closing(Pipe(path, 1, LIMIT)) as reader:
        items = take(reader)
    assert len(items) == len(examples) == len(expected)
    for arrival, example, want in zip(items, examples, expected, strict=True):
        assert arrival.example.key == example.key
        assert hashlib.sha256(arrival.example.encoded or b"").hexdigest() == want["image_sha256"]
        np.testing.assert_array_equal(arrival.example.targets.boxes, example.targets.boxes)
        if want.get("boxes") and not example.problem:
            np.testing.assert_array_equal(
                arrival.example.targets.boxes, np.asarray(want["boxes"], np.float32)[:, 1:5]
            )
        record = check_example(arrival.example, arrival.info, ChannelIssues("train"))
        if record is not None and isinstance(want.get("gluoncv_boxes_px"), list):
            assert [record.height, record.width, 3] == want["mxnet_decoded_shape"]
            assert record.read() == arrival.example.encoded and len(record.read()) == record.length


def test_passes__one_fifo_after_the_other(path: Path) -> None:
    with (
        PipePlatform(path, [images(3), images(2, 50)], late=0.05) as platform,
        closing(Pipe(path, 2, LIMIT)) as reader,
    ):
        first, second = take(reader), take(reader)
    assert [arrival.example.key for arrival in first] == [
        f"train_0#{index} (id {index})" for index in range(3)
    ]
    assert [arrival.example.encoded for arrival in second] == [png(grey=50), png(grey=51)]
    assert platform.closed_early == []


def test_passes__the_next_is_read_before_the_last_is_used(path: Path) -> None:
    with (
        PipePlatform(path, [images(3), images(2)]) as platform,
        closing(Pipe(path, 2, LIMIT)) as reader,
    ):
        wait_until(lambda: platform.written == [len(images(3)), len(images(2))])
        assert (len(take(reader)), len(take(reader))) == (3, 2)


def test_passes__none_beyond_the_last(path: Path) -> None:
    with PipePlatform(path, [images(1), images(1)]) as platform, closing(Pipe(path, 1, LIMIT)) as reader:
        take(reader)
        wait_until(platform.fifo(1).exists)
        time.sleep(0.25)
        assert len(platform.written) == 1


def test_slow_writer__all_comes(path: Path) -> None:
    content = images(4)
    with (
        PipePlatform(path, [content], piece=len(content) // 20, pause=0.01),
        closing(Pipe(path, 1, LIMIT)) as reader,
    ):
        assert len(take(reader)) == 4


@pytest.mark.parametrize("silent", ["no_fifo", "no_writer", "writer_waits"])
def test_waiting__says_what_for_and_can_be_stopped(
    path: Path, silent: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fifo, "TELL_AFTER_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    stop = threading.Event()
    if silent != "no_fifo":
        os.mkfifo(f"{path}_0")
    with closing(Pipe(path, 1, LIMIT, stop=StopWhen(stop.is_set))) as reader:
        writer = os.open(f"{path}_0", os.O_RDWR) if silent == "writer_waits" else None
        threading.Timer(0.4, stop.set).start()
        start = time.monotonic()
        with pytest.raises(StopWaiting):
            take(reader)
        assert time.monotonic() - start < 2
        if writer is not None:
            os.close(writer)
    words = (
        f"{path}_0 is not there yet" if silent == "no_fifo" else "nothing has been written into train_0 yet"
    )
    assert [record.getMessage() for record in caplog.records] == [f"waiting: {words}"]


def test_dying_writer__names_pipe_record_and_byte(path: Path, tmp_path: Path) -> None:
    content = 3 * images(1)
    size = len(content) // 3
    for cut in (3, 8, size - 1, size + 1, size + 8, 2 * size + 40):
        own = tmp_path / str(cut) / "train"
        own.parent.mkdir()
        with (
            PipePlatform(own, [content], dies_after=cut),
            closing(Pipe(own, 2, LIMIT)) as reader,
            pytest.raises(UserError) as error,
        ):
            take(reader)
        number = cut // size
        assert str(error.value).startswith(f"train_0 is damaged in record {number} at byte {number * size}: ")
        assert "ends" in str(error.value)


def test_dying_writer__what_came_before_is_handed_over(path: Path) -> None:
    content = images(3)
    with (
        PipePlatform(path, [content], dies_after=len(content) - 1),
        closing(Pipe(path, 2, LIMIT)) as reader,
    ):
        items = reader.items()
        assert [next(items).example.encoded for _ in range(2)] == [png(grey=0), png(grey=1)]
        with pytest.raises(UserError, match="the record goes on to byte"):
            next(items)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "train_0 ended without a record"),
        (
            b"RIFF" + bytes(40),
            "train_0 is damaged in record 0 at byte 0: here is 52494646, but a record begins",
        ),
        (
            image_record(LABEL, png()) + b"some text",
            f"train_0 is damaged in record 1 at byte {len(image_record(LABEL, png()))}: here is",
        ),
        (image_record(LABEL, png()) + record_bytes(b"short"), "train_0 is damaged in record 1"),
    ],
)
def test_wrong_content__is_named(path: Path, content: bytes, words: str) -> None:
    with (
        PipePlatform(path, [content]),
        closing(Pipe(path, 1, LIMIT)) as reader,
        pytest.raises(UserError) as e,
    ):
        take(reader)
    assert str(e.value).startswith(words)


def test_folder_in_its_place__is_named(path: Path) -> None:
    path.with_name("train_0").mkdir()
    with closing(Pipe(path, 1, LIMIT)) as reader, pytest.raises(UserError, match="train_0 is a folder"):
        take(reader)


def test_close__in_the_middle_ends_the_writer(path: Path) -> None:
    endless = (image_record(LABEL, bytes(100_000)) for _ in iter(int, 1))
    with PipePlatform(path, [endless, images(1)]) as platform:
        reader = Pipe(path, 2, LIMIT)
        next(reader.items())
        reader.close()
        wait_until(lambda: platform.closed_early == [0])
    assert not any(thread.name == "pipe train" for thread in threading.enumerate())


def test_forked_child__does_not_keep_the_fifo_open(path: Path) -> None:
    endless = (image_record(LABEL, bytes(100_000)) for _ in iter(int, 1))
    with PipePlatform(path, [endless]) as platform:
        reader = Pipe(path, 1, LIMIT)
        next(reader.items())
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(0)
        try:
            reader.close()
            wait_until(lambda: platform.closed_early == [0])
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


def long_stream(count: int, size: int) -> Iterator[bytes]:
    return (image_record(LABEL, bytes([index % 251]) * size, index) for index in range(count))


def test_buffer__is_bounded_in_bytes(path: Path) -> None:
    with PipePlatform(path, [long_stream(300, 40_000)]) as platform, closing(Pipe(path, 1, LIMIT)) as reader:
        wait_until(lambda: bool(platform.written) and platform.written[0] > LIMIT)
        time.sleep(0.3)
        # what waits, what the kernel's pipe and the reader hold, and one record that is being read
        assert platform.written[0] < LIMIT + 2 * fifo.PIPE_BYTES + 200_000 < 300 * 40_000
        assert len(take(reader)) == 300


def test_buffer__one_image_larger_than_all_of_it(path: Path) -> None:
    with PipePlatform(path, [long_stream(3, 3 * LIMIT)]), closing(Pipe(path, 1, LIMIT)) as reader:
        assert [len(arrival.example.encoded or b"") for arrival in take(reader)] == [3 * LIMIT] * 3


def test_buffer__a_full_one_takes_some_now_and_then(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "FULL_SECONDS", 0.2)
    monkeypatch.setattr(buffer, "FULL_BYTES", LIMIT)
    bound = LIMIT + 2 * fifo.PIPE_BYTES + 200_000
    with PipePlatform(path, [long_stream(300, 40_000)]) as platform, closing(Pipe(path, 1, LIMIT)) as reader:
        wait_until(lambda: bool(platform.written) and platform.written[0] > bound)
        assert len(take(reader)) == 300


def test_turn__this_hosts_share_only(path: Path) -> None:
    with (
        PipePlatform(path, [images(7)]),
        closing(Pipe(path, 1, LIMIT, turn=lambda number: number % 3 == 1)) as reader,
    ):
        assert [arrival.example.key for arrival in take(reader)] == ["train_0#1 (id 1)", "train_0#4 (id 4)"]


def test_buffer_bytes__follow_the_containers_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    for text, want in (("max", 256 << 20), (f"{1 << 30}\n", 64 << 20), (f"{1 << 62}", 256 << 20)):
        limit.write_text(text)
        monkeypatch.setattr(machine.os, "sysconf", lambda name: 1 << 20)  # 2**20 pages of so many bytes
        assert buffer_bytes() == want


def test_closing__a_process_forked_meanwhile_does_not_close_another_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(descriptor: int) -> None:
        known.append(len(fifo._open_fifos))
        real_close(descriptor)

    known: list[int] = []
    real_close = os.close
    os.mkfifo(f"{path}_0")
    opened = fifo.open_fifo(path.with_name("train_0"), NEVER)
    before = len(fifo._open_fifos)
    monkeypatch.setattr(fifo.os, "close", close)
    opened.close()
    assert known == [before - 1]
