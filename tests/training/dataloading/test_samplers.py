from __future__ import annotations

import pytest
from tilewise.data.shard import Shard
from tilewise.training.dataloading.samplers import ImageSampler, ShardSampler
from tilewise.training.dataloading.view_order import Item


@pytest.mark.parametrize(("count", "size"), [(7, 3), (8, 4), (2, 5), (1, 4), (5, 1)])
def test_batches__are_whole_and_cover_every_record(count: int, size: int) -> None:
    sampler = ImageSampler(count, size, seed=1)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == -(-count // size)
    assert all(len(batch) == size for batch in drawn)
    indices = [index for batch in drawn for index, _, _ in batch]
    assert set(indices) == set(range(count))
    assert sorted(indices[:count]) == list(range(count))


def test_batches__depend_on_seed_and_epoch_alone() -> None:
    def draw(seed: int, epoch: int) -> list[list[Item]]:
        sampler = ImageSampler(20, 4, seed)
        sampler.epoch = epoch
        return list(sampler)

    assert draw(0, 0) == draw(0, 0)
    orders = [[index for batch in draw(*key) for index, _, _ in batch] for key in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(order) for order in orders}) == 3


def test_batches__repeat_a_record_with_another_seed() -> None:
    (batch,) = ImageSampler(1, 4, seed=0)
    assert len({seed for _, _, seed in batch}) == 4


@pytest.mark.parametrize(("images", "processes"), [(20, 1), (20, 3), (7, 4), (3, 8)])
def test_shards__every_process_takes_as_many_steps_and_all_images_are_seen(
    images: int, processes: int
) -> None:
    for epoch in (0, 1):
        drawn = []
        for process in range(processes):
            batches = ShardSampler(ImageSampler(images, 2, seed=3), Shard(process, processes))
            batches.epoch = epoch
            drawn.append(list(batches))
            assert len(drawn[-1]) == len(batches)
        assert len({len(of_process) for of_process in drawn}) == 1
        seen = [index for of_process in drawn for batch in of_process for index, _, _ in batch]
        assert set(seen) == set(range(images))
        assert len(seen) < images + 2 * processes + 2


def test_shards__hosts_with_fewer_images_begin_anew() -> None:
    """With ShardedByS3Key: three steps where the largest host has three, though this one has two batches."""
    batches = ShardSampler(ImageSampler(4, 2, seed=0), Shard(), steps=3)
    first, second, third = batches
    assert third == first != second and len(batches) == 3
