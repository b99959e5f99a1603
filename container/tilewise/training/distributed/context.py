"""The processes that train together, over torch.distributed: one on each GPU of each host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

Value = TypeVar("Value")

FOLDER = "TILEWISE_FOLDER"
"""The environment variable that names :attr:`DistributedContext.folder`."""

WAIT = timedelta(hours=24)
"""So long a process waits for the others: for the leader's report, or a host whose pipe is slow.

A process that has died is noticed at once, by its connections and by the launcher.
"""


@dataclass(frozen=True)
class DistributedContext:
    """Where a process stands among those that train together; by default it is alone.

    All processes must call the methods below, in the same order.

    Attributes:
        rank: of this process, from 0; that one leads: it alone writes and prints.
        size: processes in all.
        local_rank: of this process among those of its host.
        local_size: processes of each host.
        control: the group of the processes' messages, on the CPU.
        host_leaders: the group of the first processes of all hosts.
        folder: a temporary folder of this host's processes, where there are several.

    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    control: Any = None
    host_leaders: Any = None
    folder: Path | None = None

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    @property
    def host(self) -> int:
        """The place of this process's host among the hosts."""
        return self.rank // self.local_size

    @property
    def hosts(self) -> int:
        """How many hosts there are."""
        return self.size // self.local_size

    def any(self, flag: bool, /) -> bool:  # noqa: FBT001  # the value that is reduced
        """Whether the flag is set anywhere."""
        return bool(self.all_reduce_max(int(flag)))

    def any_host(self, flag: bool, /) -> bool:  # noqa: FBT001  # the value that is reduced
        """Whether the flag is set on any host; only the hosts' first processes ask."""
        return bool(self._largest(int(flag), self.host_leaders)) if self.hosts > 1 else flag

    def all_reduce_max(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return self._largest(number, self.control) if self.size > 1 else number

    def all_reduce_min(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        return -self.all_reduce_max(-number)

    def gather(self, value: Value) -> list[Value]:
        """All processes' values, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def broadcast(self, value: Value) -> Value:
        """The leader's value; what the others give does not matter."""
        if self.size == 1:
            return value
        values = [value if self.is_main_process else None]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]  # type: ignore[return-value]

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give all processes the leader's running statistics of normalisation layers."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def barrier(self) -> None:
        """Wait for all processes to come here."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def destroy(self) -> None:
        """To be called last."""
        if self.size > 1:
            dist.destroy_process_group()

    def _largest(self, number: int, group: Any) -> int:
        tensor = torch.tensor(number)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=group)
        return int(tensor)


SINGLE_PROCESS = DistributedContext()


def init_distributed() -> DistributedContext:
    """Join the processes that the launcher has started; ``SINGLE_PROCESS`` where it has not.

    The environment says who this process is, in torchrun's names.
    """
    if "RANK" not in os.environ:
        return SINGLE_PROCESS
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=connect_store(), rank=rank, world_size=size, timeout=WAIT)
    control = dist.new_group(backend="gloo", timeout=WAIT)
    leaders = list(range(0, size, local_size))
    host_leaders = dist.new_group(leaders, backend="gloo", timeout=WAIT) if len(leaders) > 1 else None
    folder = Path(os.environ[FOLDER])
    return DistributedContext(
        rank, size, local_rank, local_size, control=control, host_leaders=host_leaders, folder=folder
    )


def connect_store() -> dist.TCPStore:
    """The store that the launcher on the first host keeps."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, timeout=timedelta(minutes=5))
