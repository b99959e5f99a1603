"""Which part of a channel a host, or one of its processes, trains on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """One of ``count`` parts: what is numbered ``index``, ``index + count``, ``index + 2 * count``, …."""

    index: int = 0
    count: int = 1

    def takes(self, number: int) -> bool:
        """Whether the part holds what has this number."""
        return number % self.count == self.index


EVERYTHING = Shard()
"""The part that a single process takes."""


def shard_of(distribution: str, host: int, hosts: int, *, process: int = 0, processes: int = 1) -> Shard:
    """The part of what lies in a host's channel that one of its processes trains on.

    With ``ShardedByS3Key`` the platform has split the files between the hosts already: a host's processes
    share what it has. With ``FullyReplicated`` all hosts have the same files, and all processes of all hosts
    share them.

    Args:
        distribution: the channel's ``S3DistributionType``.
        host: the host's place among the sorted hosts.
        hosts: how many there are.
        process: the process's place on its host.
        processes: how many of them a host has.

    """
    if distribution == "ShardedByS3Key":
        return Shard(process, processes)
    return Shard(host * processes + process, hosts * processes)
