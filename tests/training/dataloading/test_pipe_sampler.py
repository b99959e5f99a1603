from __future__ import annotations

import logging
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import torch
from pipe_platform import PipePlatform, image_record, png
from tilewise.augment.copy_paste import CopyPaste
from tilewise.data.classes import ClassIds
from tilewise.data.pipe.buffer import Pipe
from tilewise.data.pipe.fifo import StopWaiting
from tilewise.data.pipe.stream import Stream
from tilewise.data.records import Record
from tilewise.errors import UserError
from tilewise.stop import StopWhen
from tilewise.tiling.spec import Tiling
from tilewise.training.dataloading import batch_server as batch_server_module
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.batch_server import BatchClient, BatchServer
from tilewise.training.dataloading.loader import SMALL_SHM, LoaderConfig, make_loader, read_batch
from tilewise.training.dataloading.pipe_sampler import PipeItem, PipeSampler, ReceivedSampler
from tilewise.training.dataloading.view_order import Copy
from tilewise.training.dataloading.view_sampler import ViewPlanner
from tilewise.views.view import Scaling

pytestmark = pytest.mark.usefixtures("no_hang")
LABEL = [2.0, 5.0, 1.0, 0.25, 0.5, 0.75, 1.0]
FORK = multiprocessing.get_context("fork")
Batches = list[list[PipeItem]]


def images(count: int) -> bytes:
    return b"".join(image_record(LABEL, png(grey=index), index) for index in range(count))


class Host:
    """A host with a pipe of its own."""

    def __init__(self, stack: ExitStack, folder: Path, passes: list[bytes]):
        folder.mkdir(exist_ok=True)
        stack.enter_context(PipePlatform(folder / "train", passes))
        pipe = stack.enter_context(closing(Pipe(folder / "train", len(passes), 1 << 20)))
        self.stream = Stream("train", pipe, ClassIds(2), expected=None)


@pytest.fixture
def stack() -> Any:
    with ExitStack() as stack:
        yield stack


def keys(batches: Batches) -> list[str]:
    return [record.key for batch in records_of(batches) for record, _ in batch]


def records_of(batches: Batches) -> list[list[tuple[Record, int]]]:
    """Of batches without copies."""
    return [[(image, seed) for image, _, seed in batch if isinstance(image, Record)] for batch in batches]


@pytest.mark.parametrize(("count", "size"), [(7, 3), (8, 4), (2, 5), (1, 4), (5, 1)])
def test_batches__are_whole_and_cover_every_record(
    stack: ExitStack, tmp_path: Path, count: int, size: int
) -> None:
    batches = PipeSampler(Host(stack, tmp_path, [images(count)] * 2).stream, size, seed=0)
    for epoch in range(2):
        batches.epoch = epoch
        drawn = list(batches)
        assert [len(batch) for batch in drawn] == [size] * -(-count // size)
        assert len({*keys(drawn)}) == len({*keys(drawn)[:count]}) == count
        assert keys(drawn)[count:] == (keys(drawn)[:count] * size)[: len(drawn) * size - count]
        assert len({seed for batch in drawn for _, _, seed in batch}) == len(drawn) * size


def serve(address: Path, passes: int, rank: int, answer: Any) -> None:
    """Another rank's process: takes its batches, epoch by epoch."""
    receiver = BatchClient(address, rank)
    batches = ReceivedSampler(receiver)
    answer.send([items(list(batches)) for _ in range(passes)])


def items(batches: Batches) -> list[list[tuple[str, bytes | None, int]]]:
    return [[(each.key, each.encoded, seed) for each, seed in batch] for batch in records_of(batches)]


def test_ranks__share_one_reader_evenly(stack: ExitStack, tmp_path: Path) -> None:
    count, ranks, size, passes = 23, 3, 2, 2
    address = tmp_path / "socket"
    started = []
    for rank in range(1, ranks):
        here, there = FORK.Pipe(duplex=False)
        process = FORK.Process(target=serve, args=(address, passes, rank, there), daemon=True)
        process.start()
        started.append((process, here))
    stream = Host(stack, tmp_path, [images(count)] * passes).stream
    batch_server = stack.enter_context(closing(BatchServer(address, ranks)))
    batches = PipeSampler(stream, size, 0, batch_server=batch_server)
    own: list[Batches] = []
    for epoch in range(passes):
        batches.epoch = epoch
        own.append(list(batches))
    taken: list[Any] = []
    for process, here in started:
        assert here.poll(20)
        taken.append(here.recv())
        process.join(5)
        assert process.exitcode == 0
    for epoch in range(passes):
        shares = [items(own[epoch]), *(one[epoch] for one in taken)]
        assert [len(share) for share in shares] == [4] * ranks  # 23 records, 6 at a step
        assert all(len(batch) == size for share in shares for batch in share)
        flat = [item for share in shares for batch in share for item in batch]
        found = Counter(key for key, _, _ in flat)
        assert set(found) == {f"train_{epoch}#{index} (id {index})" for index in range(count)}
        assert sorted(found.values()) == [1] * (count - 1) + [2]
        assert {encoded for _, encoded, _ in flat} == {png(grey=index) for index in range(count)}
        assert len({seed for _, _, seed in flat}) == 24


def in_thread(action: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(action())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, found


def test_ranks__an_error_reaches_all(stack: ExitStack, tmp_path: Path) -> None:
    address = tmp_path / "socket"
    thread, found = in_thread(lambda: list(ReceivedSampler(BatchClient(address, 1))))
    folder = tmp_path / "dying"
    folder.mkdir()
    stack.enter_context(PipePlatform(folder / "train", [images(1200)], dies_after=120_000))
    pipe = stack.enter_context(closing(Pipe(folder / "train", 1, 1 << 20)))
    stream = Stream("train", pipe, ClassIds(2), expected=None)
    batch_server = stack.enter_context(closing(BatchServer(address, 2)))
    with pytest.raises(UserError, match="train_0 is damaged in record") as error:
        list(PipeSampler(stream, 4, 0, batch_server=batch_server))
    thread.join(10)
    assert isinstance(found[0], UserError) and str(found[0]) == str(error.value)


def test_ranks__the_reader_is_gone(tmp_path: Path) -> None:
    batch_server = BatchServer(tmp_path / "socket", 2)
    receiver = BatchClient(tmp_path / "socket", 1)
    batch_server.close()
    with pytest.raises(RuntimeError, match="has ended"):
        receiver.receive()


def test_ranks__the_reader_was_gone_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_server_module, "REFUSED_SECONDS", 0.2)
    BatchServer(tmp_path / "socket", 2).close()
    with pytest.raises(RuntimeError, match="has ended"):
        BatchClient(tmp_path / "socket", 1)


def test_ranks__a_rank_is_gone(tmp_path: Path) -> None:
    with closing(BatchServer(tmp_path / "socket", 2)) as batch_server:
        BatchClient(tmp_path / "socket", 1).close()

        def send() -> None:
            for _ in range(10_000):
                batch_server.send(1, [bytes(1000)])
                threading.Event().wait(0.001)

        with pytest.raises(RuntimeError, match="rank 1 does not take its batches any more"):
            send()


def test_ranks__waiting_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(StopWaiting):
        BatchClient(tmp_path / "socket", 1, StopWhen(stop.is_set))
    stop.clear()
    with closing(BatchServer(tmp_path / "other", 2)):
        receiver = BatchClient(tmp_path / "other", 1, StopWhen(stop.is_set))
        threading.Timer(0.2, stop.set).start()
        assert receiver.receive() is None
        receiver.close()


class Agreement:
    """What an all-reduce over the hosts does."""

    def __init__(self, hosts: int):
        self.barrier = threading.Barrier(hosts)
        self.have: list[bool] = []

    def any(self, have: bool) -> bool:
        self.have.append(have)
        self.barrier.wait(10)
        answer = any(self.have)
        if self.barrier.wait(10) == 0:
            self.have.clear()
        self.barrier.wait(10)
        return answer


def test_hosts__take_the_same_number_of_steps(stack: ExitStack, tmp_path: Path) -> None:
    counts, agreement = (5, 17, 9), Agreement(3)
    running = []
    for number, count in enumerate(counts):
        stream = Host(stack, tmp_path / str(number), [images(count)]).stream
        batches = PipeSampler(stream, 4, number, any_host_has_more=agreement.any)
        running.append(in_thread(lambda batches=batches: list(batches)))  # type: ignore[misc]
    for (thread, found), count in zip(running, counts, strict=True):
        thread.join(20)
        (drawn,) = found
        assert [len(batch) for batch in drawn] == [4] * 5
        assert len({*keys(drawn)}) == len({*keys(drawn)[:count]}) == count


def loaded(stack: ExitStack, folder: Path, workers: int, small_shm: int = SMALL_SHM) -> list[Batch]:
    bad = image_record(LABEL, png()[:-20] + b"damaged pixels", 99)
    stream = Host(stack, folder, [images(9) + bad] * 2).stream
    config = LoaderConfig(scaling=Scaling(square=32), batch_size=4, workers=workers, small_shm=small_shm)
    loader = make_loader(stream, config)
    found = []
    for epoch in range(2):
        loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
        found += [read_batch(batch) for batch in loader]
    return found


@pytest.mark.parametrize("shared_memory", ["enough", "small"])
def test_loader__workers_make_no_difference(stack: ExitStack, tmp_path: Path, shared_memory: str) -> None:
    small_shm = 0 if shared_memory == "enough" else 2**62
    ones, others = (loaded(stack, tmp_path / str(workers), workers, small_shm) for workers in (0, 2))
    assert len(ones) == len(others) == 6
    for one, other in zip(ones, others, strict=True):
        assert one.damaged == other.damaged and len(one) + len(one.damaged) == 4
        assert torch.equal(one.pixels, other.pixels) and torch.equal(one.targets.boxes, other.targets.boxes)
    named = {key for batch in ones for key, reason in batch.damaged if "damaged" in reason}
    assert named == {"train_0#9 (id 99)", "train_1#9 (id 99)"}


def test_loader__views_of_a_pipes_images(stack: ExitStack, tmp_path: Path) -> None:
    """One view of each image a pass, drawn anew in every pass, and of one size in a batch."""
    planner = ViewPlanner("grid", Tiling("grid", grid=(2, 2)), Scaling(square=32), negative_ratio=9.0)
    stream = Host(stack, tmp_path, [images(12)] * 2).stream
    loader = make_loader(
        stream,
        LoaderConfig(scaling=Scaling(square=32), batch_size=4, workers=0, seed=0, factors=(1.0, 2.0)),
        planner=planner,
    )
    windows: set[tuple[int, ...]] = set()
    for epoch in range(2):
        loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
        batches = list(loader.batch_sampler or ())
        assert len(batches) == 3
        for batch in batches:
            assert len({view.size for _, view, _ in batch}) == 1
            windows |= {view.window for _, view, _ in batch}
    assert len(windows) > 2


SMALL = [2.0, 5.0, 1.0, 0.2, 0.2, 0.3, 0.35]


@pytest.mark.parametrize("source", ["image", "any"])
def test_copies__come_once_for_each_image_with_small_objects(
    stack: ExitStack, tmp_path: Path, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The images that have room come once more, some time after they came, in each pass."""
    large = b"".join(image_record(LABEL, png(grey=index), index) for index in range(9, 12))
    passed = b"".join(image_record(SMALL, png(grey=index), index) for index in range(9)) + large
    stream = Host(stack, tmp_path, [passed] * 2).stream
    batches = PipeSampler(stream, 3, 0, copy_paste=CopyPaste(of_others=source == "any"))
    for epoch in range(2):
        batches.epoch = epoch
        with caplog.at_level(logging.INFO):
            drawn = [image for batch in batches for image, _, _ in batch]
        own = Counter(image.key for image in drawn if not isinstance(image, Copy))
        copies = [image for image in drawn if isinstance(image, Copy)]
        of = [copy.image.key for copy in copies if isinstance(copy.image, Record)]
        assert len(own) == 12 and len(of) == len({*of})
        large_ones = {f"train_{epoch}#{index} (id {index})" for index in range(9, 12)}
        assert len({*of} - large_ones) == 9
        assert any(copy.donor for copy in copies) == (source == "any")
        # another image's object finds room where the large one finds none
        assert source == "any" or (len(of) == 9 and len(drawn) == 21)
        assert f"{len(of)} of 12 images of this pass came once more, with {len(of)} objects" in caplog.text


def test_copies__are_loaded_from_a_pipe(stack: ExitStack, tmp_path: Path) -> None:
    passed = b"".join(image_record(SMALL, png(grey=index), index) for index in range(9))
    stream = Host(stack, tmp_path, [passed]).stream
    planner = ViewPlanner("grid", Tiling("grid", grid=(2, 1)), Scaling(square=32))
    copy_paste = CopyPaste(of_others=True)
    config = LoaderConfig(scaling=Scaling(square=32), batch_size=3)
    loader = make_loader(stream, config, planner=planner, copy_paste=copy_paste)
    batches = [read_batch(batch) for batch in loader]
    assert sum(map(len, batches)) == 18 and not any(batch.damaged for batch in batches)
