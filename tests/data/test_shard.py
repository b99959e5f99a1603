from __future__ import annotations

import pytest
from tilewise.data.shard import Shard, shard_of


@pytest.mark.parametrize(("hosts", "processes"), [(1, 1), (1, 8), (2, 1), (3, 4)])
def test_fully_replicated__all_processes_share_what_every_host_has(hosts: int, processes: int) -> None:
    shards = [
        shard_of("FullyReplicated", host, hosts, process=process, processes=processes)
        for host in range(hosts)
        for process in range(processes)
    ]
    for number in range(50):
        assert sum(shard.takes(number) for shard in shards) == 1


@pytest.mark.parametrize("processes", [1, 4])
def test_sharded_by_key__the_platform_has_split_already(processes: int) -> None:
    for host in range(3):
        shards = [
            shard_of("ShardedByS3Key", host, 3, process=process, processes=processes)
            for process in range(processes)
        ]
        for number in range(50):
            assert sum(shard.takes(number) for shard in shards) == 1


def test_one_process__takes_all() -> None:
    assert Shard() == shard_of("FullyReplicated", 0, 1) == shard_of("ShardedByS3Key", 0, 1)
    assert all(Shard().takes(number) for number in range(9))
