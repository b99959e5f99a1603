from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pipe_platform import PipePlatform, image_record, manifest, png
from tilewise.data.classes import ClassIds
from tilewise.data.pipe import stream as stream_module
from tilewise.data.pipe.buffer import Pipe
from tilewise.data.pipe.stream import Stream
from tilewise.data.records import Record
from tilewise.errors import UserError
from tilewise.stop import NEVER, StopToken, StopWhen

pytestmark = pytest.mark.usefixtures("no_hang")
LABEL = [2.0, 5.0, 1.0, 0.25, 0.5, 0.75, 1.0]
IMAGE = png()


@pytest.fixture(autouse=True)
def _small_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "HEAD_IMAGES", 4)


def images(count: int, first: int = 0) -> bytes:
    return b"".join(image_record(LABEL, IMAGE, first + index) for index in range(count))


def padded(count: int, size: int) -> list[bytes]:
    """Images that are good, with something behind them that makes them large."""
    return [image_record(LABEL, IMAGE + bytes(size), index) for index in range(count)]


def ids(records: list[Record]) -> list[int]:
    return [int(record.key.split("(id ")[1][:-1]) for record in records]


@contextmanager
def streaming(
    folder: Path,
    passes: list[bytes],
    expected: int | None = None,
    limit: int = 8 << 20,
    class_ids: ClassIds | None = None,
    stop: StopToken = NEVER,
    pause: float = 0,
) -> Iterator[Stream]:
    folder.mkdir(exist_ok=True)
    with PipePlatform(folder / "train", passes, piece=4096, pause=pause):
        pipe = Pipe(folder / "train", len(passes), limit, stop=stop)
        try:
            yield Stream("train", pipe, class_ids or ClassIds(2), expected=expected)
        finally:
            pipe.close()


def shuffled(stream: Stream, seed: int = 0, start: int = 4) -> list[Record]:
    return list(stream.shuffled(np.random.default_rng(seed), start))


def test_passes__every_record_once_and_the_first_ones_are_among_them(tmp_path: Path) -> None:
    with streaming(tmp_path, [images(10), images(3, 100), images(9, 50)]) as stream:
        assert ids(list(stream.sample)) == [0, 1, 2, 3]
        assert stream.sample.targets.boxes.tolist() == [[10, 15, 30, 30]] * 4
        assert ids(list(stream.one_pass())) == list(range(10))
        assert ids(list(stream.one_pass())) == [100, 101, 102]
        assert sorted(ids(shuffled(stream))) == list(range(50, 59))


def test_records__hold_their_image(tmp_path: Path) -> None:
    with streaming(tmp_path, [images(2)]) as stream:
        (first, second) = stream.one_pass()
        assert first.encoded == first.read() == second.read() == IMAGE and first.length == len(IMAGE)
        assert (first.width, first.height) == (40, 30) and first.targets.labels.tolist() == [1]


def test_shuffled__the_order_depends_on_the_seed_alone(tmp_path: Path) -> None:
    orders = []
    for number, (seed, pause) in enumerate([(0, 0), (0, 0.003), (1, 0)]):
        with streaming(
            tmp_path / str(number), [b"".join(padded(60, 2000))], pause=pause, limit=60_000
        ) as stream:
            orders.append(ids(shuffled(stream, seed)))
    assert orders[0] == orders[1] != orders[2]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert orders[0] != list(range(60))


def test_shuffled__another_order_in_each_pass(tmp_path: Path) -> None:
    with streaming(tmp_path, [images(30), images(30)]) as stream:
        rng = np.random.default_rng(0)
        first, second = (ids(list(stream.shuffled(rng, 4))) for _ in range(2))
    assert sorted(first) == sorted(second) and first != second


def test_shuffled__begins_with_the_first_records(tmp_path: Path) -> None:
    def writer() -> Iterator[bytes]:
        yield images(8)
        drawn.wait(20)
        yield images(12, 8)

    drawn = threading.Event()
    with streaming(tmp_path, [writer()]) as stream:  # type: ignore[list-item]
        records = stream.shuffled(np.random.default_rng(0), start=4)
        first = list(itertools.islice(records, 3))  # at the 4th, 6th and 8th
        drawn.set()
        rest = list(records)
    assert sorted(ids(first + rest)) == list(range(20)) and max(ids(first)) < 8


def test_shuffled__what_waits_is_bounded_in_bytes(tmp_path: Path) -> None:
    size, limit, held = 10_000, 200_000, 0
    with streaming(tmp_path, [b"".join(padded(200, size))], limit=limit) as stream:
        buffer = stream.pipe.buffer
        for record in stream.shuffled(np.random.default_rng(0), 4):
            assert record.length > size
            held = max(held, buffer._held)
    assert limit / 2 < held <= limit + size + 5000


def test_shuffled__mixes_far_apart_records(tmp_path: Path) -> None:
    with streaming(tmp_path, [images(400)], limit=400_000) as stream:  # room for about 160 of them
        order = np.asarray(ids(shuffled(stream)))
    assert sorted(order) == list(range(400))
    moved = np.abs(order - np.arange(400))
    assert np.median(moved) > 40 and moved.max() > 150


def damaged(count: int, good: int) -> bytes:
    bad = b"".join(image_record(LABEL, b"no image", 900 + index) for index in range(count))
    return bad + images(good)


def test_left_out__named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with streaming(tmp_path, [damaged(2, 50), images(52)], expected=52) as stream:
        assert len(list(stream.one_pass())) == 50
        assert list(stream.issues.left_out) == ["train_0#0 (id 900)", "train_0#1 (id 901)"]
        assert stream.issues.images == 52
        stream.finish_pass()
        assert len(list(stream.one_pass())) == 52
        assert (stream.issues.images, stream.issues.left_out) == (52, {})
        stream.finish_pass()
    text = "channel train: train_0#1 (id 901) is left out: these bytes are not an image in a known format"
    assert [record.getMessage() for record in caplog.records].count(text) == 1
    assert len(caplog.records) == 2


def test_left_out__too_many_stop_the_job_before_the_rest_comes(tmp_path: Path) -> None:
    words = r"channel train: 4 of \d+ images so far cannot be used, more than 5%; .* train_0#0 \(id 900\)"
    with pytest.raises(UserError, match=words), streaming(tmp_path, [damaged(4, 60)], expected=64) as stream:
        next(stream.one_pass())


def test_left_out__fewer_came_than_were_expected(tmp_path: Path) -> None:
    with streaming(tmp_path, [damaged(2, 20)], expected=1000) as stream:
        assert len(list(stream.one_pass())) == 20
        with pytest.raises(UserError, match="2 of 22 images cannot be used"):
            stream.finish_pass()


def test_left_out__all(tmp_path: Path) -> None:
    with streaming(tmp_path, [damaged(2, 0)]) as stream:
        assert list(stream.one_pass()) == []
        with pytest.raises(UserError, match="2 of 2 images cannot be used"):
            stream.finish_pass()


def test_left_out__in_decoding_counts_too(tmp_path: Path) -> None:
    with streaming(tmp_path, [images(30)], expected=30) as stream:
        first, second, *_ = stream.one_pass()
        stream.issues.leave_out(first.key, "truncated")
        with pytest.raises(UserError, match="2 of 30 images"):
            stream.issues.leave_out(second.key, "truncated")


def test_boxes__are_cleaned_as_those_of_files(tmp_path: Path) -> None:
    label = [2.0, 5.0, 1, -0.5, 0, 0.5, 0.5, 0, 0.5, 0.5, 0.5, 0.9]
    with streaming(tmp_path, [image_record(label, IMAGE)]) as stream:
        (record,) = stream.one_pass()
    assert record.targets.boxes.tolist() == [[0, 0, 20, 15]] and record.targets.labels.tolist() == [1]
    assert stream.issues.clipped == 1
    assert stream.issues.dropped == ["train_0#0 (id 0): the box from (20, 15) to (20, 27) has no area"]


def test_class_ids__larger_than_num_classes(tmp_path: Path) -> None:
    names = {"metadata": {"class-map": {"0": "dog", "5": "cat"}}}
    content = manifest(IMAGE, [(0, 0, 0, 5, 5), (5, 0, 0, 5, 5)], **names)
    with pytest.raises(UserError) as error, streaming(tmp_path, [content]) as stream:
        list(stream.one_pass())
    assert str(error.value) == (
        "channel train: train_0#0 has class_id 5, but num_classes is 2, so ids go from 0 to 1 (the data so "
        "far names 0 dog, 5 cat): raise num_classes, correct the data, or list the ids that it has in the "
        'hyperparameter class_map, such as {"0": "dog", "5": "cat"}'
    )


def test_class_ids__sparse_with_a_class_map(tmp_path: Path) -> None:
    class_ids = ClassIds(3, {0: "dog", 5: "cat", 9: "ox"})
    content = manifest(IMAGE, [("9", 0, 0, 5, 5), ("0", 0, 0, 5, 5), (5, 0, 0, 5, 5)])
    with streaming(tmp_path, [content], class_ids=class_ids) as stream:
        (record,) = stream.one_pass()
        assert record.targets.labels.tolist() == [2, 0, 1] and record.targets.labels.dtype == np.int64
    other = manifest(IMAGE, [(7, 0, 0, 5, 5)])
    with (
        pytest.raises(
            UserError, match="train_0#0 has class_id 7, but class_map has only 0, 5, 9: add it there"
        ),
        streaming(tmp_path / "b", [other], class_ids=class_ids) as stream,
    ):
        list(stream.one_pass())


def test_expected__a_wrong_number_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with streaming(tmp_path, [images(7), images(6)], expected=10) as stream:
        for _ in range(2):
            list(stream.one_pass())
            stream.finish_pass()
        assert stream.expected_images == 6
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        "num_training_samples is 10, but the first pass of channel train had 7 images: these count"
    )


def test_stop__ends_the_pass(tmp_path: Path) -> None:
    stop = threading.Event()

    def writer() -> Iterator[bytes]:
        yield images(6)
        stop.wait(20)

    with streaming(tmp_path, [writer()], stop=StopWhen(stop.is_set)) as stream:  # type: ignore[list-item]
        records = stream.one_pass()
        assert len(list(itertools.islice(records, 6))) == 6
        threading.Timer(0.2, stop.set).start()
        assert list(records) == []
