"""What this process may use of the machine: cores and memory, as its container limits them."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")


def available_cores() -> int:
    """The CPU cores that this process may use: its affinity, and its container's quota."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota() -> float | None:
    """CPU cores that the container may keep busy (cgroup v2, then v1), or None without a limit."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (CGROUP / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (CGROUP / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return float(quota) / float(period) if quota.isdecimal() and period.isdecimal() else None


def available_memory() -> int:
    """Bytes that can still be taken without swapping: the machine's, or what the container's limit leaves."""
    free = _meminfo("MemAvailable")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            left = int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
        except (OSError, ValueError):  # no such version of cgroups, or no limit: "max"
            continue
        free = min(free, max(0, left))
    return free


def _meminfo(name: str) -> int:
    for line in MEMORY.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{MEMORY} has no {name}")
