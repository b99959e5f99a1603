from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parts import parts
from PIL import Image
from tilewise.data.channel import Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.data.shard import Shard
from tilewise.targets import Targets
from tilewise.tiling.spec import Tiling
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.dataset import TrainingDataset, decode_record
from tilewise.training.dataloading.loader import LoaderConfig, default_workers, make_loader, read_batch
from tilewise.training.dataloading.view_order import Item, index_of
from tilewise.training.dataloading.view_sampler import TrainingViews, ViewPlanner
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.views.rendering import AS_STORED
from tilewise.views.sample import Sample, make_sample
from tilewise.views.view import Scaling, whole_image
from torch.utils.data import DataLoader


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Seven images of their own sizes, of which the fourth has no object and the sixth is damaged."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(7):
        width, height = 30 + 5 * index, 40
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(path)
        count = 0 if index == 3 else 2
        made.append(
            Record(
                key=path.name,
                path=path,
                width=width,
                height=height,
                targets=Targets(
                    np.array([[2, 2, 12, 12], [15, 15, 25, 30]], np.float32)[:count],
                    np.array([0, 1])[:count],
                    np.array([False, True])[:count],
                ),
            )
        )
    damaged = made[5].path
    damaged.write_bytes(damaged.read_bytes()[:500])
    return Records(made)


def batches(records: Records, workers: int, epoch: int = 0, seed: int = 0) -> list[Batch]:
    config = LoaderConfig(scaling=Scaling(square=32), batch_size=3, workers=workers, seed=seed)
    loader = make_loader(Split(records, ChannelIssues("train")), config)
    loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
    return [read_batch(batch) for batch in loader]


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    for batch, other_batch in zip(one, other, strict=True):
        assert all(map(torch.equal, parts(batch).values(), parts(other_batch).values()))
        for name in ("sizes", "counts", "damaged"):
            assert getattr(batch, name) == getattr(other_batch, name)


def samples_of(batches: list[Batch]) -> list[Sample]:
    return [sample for batch in batches for sample in batch.samples(torch.device("cpu"))]


def test_loader__tells_damaged_images_by_key_and_reason(records: Records) -> None:
    loaded = batches(records, workers=0)
    damaged = [pair for batch in loaded for pair in batch.damaged]
    assert {key for key, _ in damaged} == {"5.png"}
    assert all("damaged" in reason for _, reason in damaged)
    samples = samples_of(loaded)
    assert len(samples) + len(damaged) == 9
    assert all(isinstance(sample, Sample) and sample.pixels.shape == (3, 32, 32) for sample in samples)


def test_loader__tells_images_that_changed_or_are_gone(records: Records) -> None:
    Image.new("RGB", (9, 8)).save(records[0].path)
    records[1].path.unlink()
    damaged = dict(pair for batch in batches(records, workers=0) for pair in batch.damaged)
    assert damaged["0.png"] == "it has 9 x 8 pixels now: it was changed during the job"
    assert "No such file" in damaged["1.png"]


def test_loader__augments_anew_each_epoch(records: Records) -> None:
    epochs = [batches(records, 0, epoch) for epoch in (0, 1)]
    first, second = ([sample.pixels for sample in samples_of(loaded)] for loaded in epochs)
    again = [any(torch.equal(one, other) for other in second) for one in first]
    assert sum(again) <= 1  # a draw may change an image by nothing


@pytest.mark.parametrize("shared_memory", ["enough", "small"])
def test_loader__workers_make_no_difference(records: Records, shared_memory: str) -> None:
    # what lies in shared memory must fit there; else it goes through the workers' pipes
    small_shm = 0 if shared_memory == "enough" else 2**62
    config = LoaderConfig(scaling=Scaling(square=32), batch_size=3, workers=2, small_shm=small_shm)
    sent = list(make_loader(Split(records, ChannelIssues("train")), config))
    assert all(isinstance(batch, bytes) == (shared_memory == "small") for batch in sent)
    assert_same([read_batch(batch) for batch in sent], batches(records, workers=0))


def test_loader__without_workers_nothing_is_sent(records: Records) -> None:
    config = LoaderConfig(scaling=Scaling(square=32), batch_size=3, small_shm=2**62)
    loader = make_loader(Split(records, ChannelIssues("train")), config)
    assert not any(isinstance(batch, bytes) for batch in loader)


@pytest.mark.parametrize(("cores", "workers"), [(1, 0), (2, 0), (3, 2), (8, 7), (9, 8), (16, 15), (64, 16)])
def test_default_workers__follow_the_cores(cores: int, workers: int) -> None:
    assert default_workers(cores=cores) == workers


def tiled_loader(
    records: Records, workers: int, views: TrainingViews = "grid", memory: int | None = None
) -> DataLoader[Any]:
    planner = ViewPlanner(views, Tiling("grid", grid=(2, 2)), Scaling(square=32), negative_ratio=9.0)
    config = LoaderConfig(scaling=Scaling(square=32), batch_size=3, workers=workers, memory=memory)
    return make_loader(Split(records, ChannelIssues("train")), config, planner=planner)


def tiled(records: Records, workers: int, views: TrainingViews = "grid", epoch: int = 0) -> list[Batch]:
    loader = tiled_loader(records, workers, views)
    loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
    return [read_batch(batch) for batch in loader]


@pytest.mark.parametrize(("memory", "kept"), [(None, True), (1, False)])
def test_loader__an_image_is_decoded_once_for_all_its_views(
    records: Records, memory: int | None, kept: bool
) -> None:
    """Nobody misses the file of an image that stays decoded, once one of its views was made."""
    records = records.select([0, 1, 2, 3, 4, 6])
    loader = tiled_loader(records, workers=0, memory=memory)
    samples: list[Any] = []
    batches: Any = loader.batch_sampler
    for items in batches:
        samples += loader.dataset.__getitems__(items)  # type: ignore[attr-defined]
        for image, _, _ in items:
            records[index_of(image)].path.unlink(missing_ok=True)
    made = sum(isinstance(sample, Sample) for sample in samples)
    assert len(samples) == 30
    assert made == 30 if kept else 6 <= made < 30


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("fit", [True, False])
def test_loader__whole_images_stay_decoded_where_all_fit(
    fit: bool, planned: bool, records: Records, tmp_path: Path
) -> None:
    """Nobody misses the files of images that stay decoded."""
    records = records.select([0, 1, 2, 3, 4, 6])
    needed = sum(3 * record.width * record.height for record in records)
    planner = ViewPlanner("whole", Tiling(), Scaling(square=32)) if planned else None
    config = LoaderConfig(
        scaling=Scaling(square=32), batch_size=3, memory=4 * (needed if fit else needed - 1)
    )
    loader = make_loader(Split(records, ChannelIssues("train")), config, planner=planner)
    assert sum(len(read_batch(batch)) for batch in loader) == 6
    for path in tmp_path.glob("*.png"):
        path.unlink()
    loader.batch_sampler.epoch = 1  # type: ignore[union-attr]
    assert sum(len(read_batch(batch)) for batch in loader) == (6 if fit else 0)


def test_loader__large_images_seen_whole_are_decoded_reduced_each_time(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    noise = np.random.default_rng(0).integers(256, size=(400, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    records = Records([Record(path.name, path, 600, 400, targets=Targets.none())])
    scaling = Scaling(square=48)
    config = LoaderConfig(scaling=scaling, batch_size=1, random_windows=False)
    loader = make_loader(Split(records, ChannelIssues("train")), config)
    assert isinstance(loader.dataset, TrainingDataset)
    loader.dataset.augmentations = ()
    (sample,) = samples_of([read_batch(batch) for batch in loader])
    (view,) = whole_image(600, 400, scaling)
    seen = {
        factor: decode_record(records[0], factor, AS_STORED).to(torch.as_tensor).seen_by(view)[0]
        for factor in (1, 8)
    }
    drawn = {
        factor: make_sample(pixels, Targets.none(), view, factor=factor).pixels
        for factor, pixels in seen.items()
    }
    assert torch.equal(sample.pixels, drawn[8])
    assert not torch.equal(sample.pixels, drawn[1])
    path.unlink()
    assert [len(read_batch(batch)) for batch in loader] == [0]


@pytest.mark.parametrize(("workers", "processes", "images"), [(0, 1, 8), (1, 1, 8), (2, 1, 4), (0, 2, 4)])
def test_loader__the_loaders_of_a_host_share_a_quarter_of_its_memory(
    workers: int, processes: int, images: int, records: Records
) -> None:
    memory = 4 * 8 * 3 * 40 * 60
    config = LoaderConfig(scaling=Scaling(square=32), batch_size=3, workers=workers, memory=memory)
    planner = ViewPlanner("grid", Tiling("grid", grid=(2, 2)), Scaling(square=32))
    distributed = replace(SINGLE_PROCESS, local_size=processes)
    split = Split(records, ChannelIssues("train"))
    loader = make_loader(split, config, planner=planner, distributed=distributed)
    assert isinstance(loader.dataset, TrainingDataset)
    assert loader.dataset.images.capacity == images * 3 * 40 * 60


def two_dozen() -> tuple[Records, ViewPlanner]:
    """Images that nobody decodes, and a planner of seven views each."""
    box, label, ignored = np.array([[8, 8, 16, 16]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool)
    images = Records(
        Record(str(key), Path("none"), 60, 40, Targets(box, label, ignored)) for key in range(24)
    )
    return images, ViewPlanner("grid", Tiling("grid", grid=(3, 2)), Scaling(square=32), negative_ratio=9.0)


@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (2, 0), (2, 2), (4, 2)])
def test_loader__an_image_goes_to_one_worker_of_one_process(processes: int, workers: int) -> None:
    """24 images of 7 views in 56 batches; where a worker has its share, an image goes on in another one."""
    images, planner = two_dozen()
    seen: list[set[int]] = []
    for process in range(processes):
        split = Split(images, ChannelIssues("train"), Shard(process, processes))
        loader = make_loader(
            split,
            LoaderConfig(scaling=Scaling(square=32), batch_size=3, workers=workers, seed=0),
            planner=planner,
        )
        batches: list[list[Item]] = list(loader.batch_sampler)  # type: ignore[arg-type]
        assert len(batches) == 56 // processes
        seen += [
            {index_of(image) for batch in batches[worker :: max(1, workers)] for image, _, _ in batch}
            for worker in range(max(1, workers))
        ]
    assert set.union(*seen) == set(range(24))
    assert sum(map(len, seen)) <= 24 + len(seen) - 1


class Modest(DistributedContext):
    """Other processes have one loader, and next to no memory."""

    def all_reduce_min(self, number: int) -> int:
        return min(number, 1)


def test_loader__all_processes_draw_the_same_order_on_unlike_hosts() -> None:
    images, planner = two_dozen()
    split = Split(images, ChannelIssues("train"))
    orders: list[list[list[Item]]] = []
    for workers, distributed in ((1, Modest()), (2, Modest()), (2, SINGLE_PROCESS)):
        loader = make_loader(
            split,
            LoaderConfig(scaling=Scaling(square=32), batch_size=3, workers=workers, seed=0),
            planner=planner,
            distributed=distributed,
        )
        orders.append(list(loader.batch_sampler))  # type: ignore[arg-type]
    assert orders[0] == orders[1] != orders[2]


def test_loader__workers_make_no_difference_to_the_views(records: Records) -> None:
    """Their order does change, so that an image's views go to one worker."""
    samples = [
        sorted(
            (sample.pixels.double().mean().item(), sample.targets.boxes.sum().item())
            for sample in samples_of(tiled(records, workers))
        )
        for workers in (0, 2)
    ]
    few, many = ({one for one in drawn} for drawn in samples)
    # but for those that fill up the last batch all are the same
    assert len(few ^ many) <= 2
