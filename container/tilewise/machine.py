"""What this process may use of the machine, as its container limits it, and how it keeps memory."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from tilewise.errors import OutOfMemoryError, UserError

CGROUP = Path("/sys/fs/cgroup")
DEVICES = Path("/dev")
MEMORY, CPU = Path("/proc/meminfo"), Path("/proc/cpuinfo")
STATM = Path("/proc/self/statm")

OF_VIEWS = 256 * 1024 * 1024
"""Bytes that no tensor of a prediction exceeds by far; a very large image does."""

SPARE_BYTES = 16 * 1024 * 1024
"""That a process may have beside what it usually needs."""
GIVE_BACK_S, FORGET_S = 1.0, 10.0
"""How often it gives memory back at most; after how long it forgets what it needed at that time."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc


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


def cpu_fact(name: str) -> str:
    """What Linux says of the first core under such a name, ``model name`` or ``flags``; "" for nothing."""
    try:
        lines = CPU.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for label, _, value in fields if label.strip() == name), "")


def visible_gpus() -> list[str]:
    """NVIDIA's GPUs that there are to use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Asked of /dev, since PyTorch takes seconds to load, and must not be in a process that forks.
    """
    present = [str(number) for number in range(len([*DEVICES.glob("nvidia[0-9]*")]))]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not present:
        return present
    names = [name.strip() for name in chosen.split(",")]
    return list(takewhile(lambda name: name not in ("", "-1"), names))  # as CUDA reads it


def memory_limit() -> int:
    """Bytes of memory that there are: the machine's, or the container's limit where that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        path = CGROUP / limit
        text = path.read_text().strip() if path.exists() else ""
        memory = min(memory, int(text)) if text.isdigit() else memory
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    return memory if address_space == resource.RLIM_INFINITY else min(memory, address_space)


MAX_PIXELS = "TILEWISE_MAX_PIXELS"
"""The environment variable that sets :func:`max_pixels`."""

_MOST_PIXELS = 500_000_000
_DECODED_BYTES = 11  # a pixel: 3 of the result, and at most 8 beside it (benchmarks/decode_memory.py)


def max_pixels(processes: int = 1) -> int:
    """How many pixels an image may have: as ``TILEWISE_MAX_PIXELS`` says, else by the memory that there is.

    By default half of the memory holds what is decoded, and no image has more than 500 million pixels.

    Args:
        processes: that may each decode such an image at the same time.

    Raises:
        UserError: the variable holds no number.

    """
    text = os.environ.get(MAX_PIXELS, "").strip()
    if text:
        if not text.isdecimal() or not int(text):
            raise UserError(f"{MAX_PIXELS} must be a whole number of pixels, at least 1, not {text!r}")
        return int(text)
    return min(_MOST_PIXELS, memory_limit() // (2 * _DECODED_BYTES * processes))


def require_memory(needed: int, what: str) -> None:
    """Refuse work that would not fit, before the kernel ends this process or another one for it.

    Args:
        needed: bytes.
        what: needs them, for the message.

    Raises:
        OutOfMemoryError: less is left.

    """
    try:
        left = available_memory()
    except OSError:  # no /proc: nobody knows
        return
    if needed > left:
        raise OutOfMemoryError(
            f"{what} needs {needed / 1e9:.1f} GB of memory, and {left / 1e9:.1f} GB are left at the moment"
        )


def available_memory() -> int:
    """Bytes that can still be taken without swapping: the machine's, or what a limit of its own leaves."""
    free = _meminfo("MemAvailable")
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            within_limit = int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
        except (OSError, ValueError):  # no such version of cgroups, or no limit: "max"
            continue
        free = min(free, max(0, within_limit))
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        pages = int(STATM.read_text().split()[0])
        free = min(free, max(0, address_space - pages * os.sysconf("SC_PAGE_SIZE")))
    return free


def _meminfo(name: str) -> int:
    for line in MEMORY.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{MEMORY} has no {name}")


def keep_freed_memory(largest: int, *, one_heap: bool = False) -> None:
    """Let this process keep memory that is freed, and use it again; so do those that it forks.

    By default glibc gives back what large tensors had: the next step, or the next image, maps it anew, and
    its pages are zeroed and faulted in again, a tenth of a prediction's time and more
    (benchmarks/endpoint.py). Without glibc nothing changes.

    Args:
        largest: bytes; what is larger still goes back when it is freed.
        one_heap: for all threads, to be asked for before they start: else threads but the first have heaps
            of 64 MB, which large tensors do not fit into.

    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, largest)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        if one_heap:
            mallopt(_M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Give the system what :func:`keep_freed_memory` has kept so far."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Memory of this process that is not swapped out."""
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class FreedMemory:
    """Gives back the freed memory that :func:`keep_freed_memory` keeps, where it is more than usual.

    Else a process stays as large as it was when most was needed at the same time: it grows with every
    coincidence of large images and bodies, for thousands of requests.

    Args:
        now: seconds.

    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._loaded = self._usual = 0
        self._next = self._forget = 0.0

    def is_usual(self) -> None:
        """What this process has now it may keep; to be called when its model has looked at an image."""
        with suppress(OSError):  # no /proc, or no file can be opened
            self._loaded = self._usual = resident_bytes()

    def give_back(self) -> None:
        """Give it back, at most once a second: what is needed again is faulted in again."""
        now = self._now()
        if now < self._next:
            return
        with suppress(OSError):
            if now >= self._forget:
                self._usual = self._loaded
            if resident_bytes() > self._usual + SPARE_BYTES:
                self._next, self._forget = now + GIVE_BACK_S, now + FORGET_S
                give_back_freed_memory()
                self._usual = max(self._loaded, resident_bytes())


def forget_garbage() -> None:
    """Collect all garbage now, and let no later collection look at what is left.

    That is what a process keeps for long: its libraries and its models. A full collection stops all of its
    threads for 50 ms and more while it looks at them.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
