from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from tilewise import machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    return tmp_path


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_cpu_quota__both_versions(cgroup: Path, files: dict[str, str], cores: float | None) -> None:
    fill(cgroup, files)
    assert machine.cpu_quota() == cores


def test_available_cores__quota_rounds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    assert machine.available_cores() == 2


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "3000000\n", "memory.current": "1000000\n"}, 2_000_000),
        ({"memory.max": "max\n", "memory.current": "1000000\n"}, 8192 * 1024),
        ({"memory.max": "99000000000\n", "memory.current": "1000000\n"}, 8192 * 1024),
        ({"memory.max": "1000\n", "memory.current": "2000\n"}, 0),
        ({"memory/memory.limit_in_bytes": "5000\n", "memory/memory.usage_in_bytes": "1000\n"}, 4000),
        ({}, 8192 * 1024),
    ],
)
def test_available_memory__is_what_the_container_leaves(
    cgroup: Path, files: dict[str, str], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cgroup / "meminfo").write_text("MemTotal: 16384 kB\nMemAvailable: 8192 kB\n")
    monkeypatch.setattr(machine, "MEMORY", cgroup / "meminfo")
    fill(cgroup, files)
    assert machine.available_memory() == left


def test_available_memory__is_what_the_address_space_leaves(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cgroup / "statm").write_text("1000 800 10 1 0 100 0\n")
    monkeypatch.setattr(machine, "STATM", cgroup / "statm")
    pages = os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (5000 * pages, -1))
    assert machine.available_memory() == 4000 * pages
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (500 * pages, -1))
    assert machine.available_memory() == 0


THREAD = """
import resource, sys, threading
from tilewise.machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * int(sys.argv[2])
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] != "default":
    keep_freed_memory(256 << 20, one_heap=sys.argv[1] == "one heap")
thread = threading.Thread(target=lambda: print([faults() for _ in range(3)][-1]))
thread.start()
thread.join()
"""


@pytest.mark.parametrize(
    ("kept", "megabytes", "again"),
    [("default", 96, False), ("kept", 96, False), ("one heap", 96, True), ("one heap", 300, False)],
)
def test_keep_freed_memory__in_a_thread(kept: str, megabytes: int, again: bool) -> None:
    command = [sys.executable, "-c", THREAD, kept, str(megabytes << 20)]
    environ = os.environ | {"PYTHONPATH": str(Path(machine.__file__).parents[1])}
    faults = int(subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout)
    assert (faults < 100) == again


GIVEN_BACK = """
import threading
from tilewise import machine

def fill_and_free(megabytes):
    kept.append(b"x" * (256 << 10))  # behind each block, as a long-lived one may be
    return megabytes << 20, b"x" * (megabytes << 20), kept.append(b"x" * (256 << 10))

def grown():
    return (machine.resident_bytes() - before) >> 20

def work():
    memory.is_usual()
    for megabytes in (8, 64):
        fill_and_free(megabytes)
        had = grown()
        memory.give_back()
        print(had, grown())
    clock.append(clock[-1] + 0.5)
    fill_and_free(64)
    memory.give_back()
    print(grown())
    clock.append(clock[-1] + 1.5)
    memory.give_back()
    print(grown())
    clock.append(clock[-1] + 1.5)
    busy = [b"x" * (100 << 10) for _ in range(400)]
    fill_and_free(64)
    memory.give_back()  # 40 MB are in use
    print(grown())
    del busy
    for seconds in (5, 10):
        clock.append(clock[-1] + seconds)
        memory.give_back()
        print(grown())

machine.keep_freed_memory(256 << 20, one_heap=True)
clock, kept = [100.0], []
memory = machine.FreedMemory(lambda: clock[-1])
before = machine.resident_bytes()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_freed_memory__given_back_where_it_is_more_than_usual_and_not_often() -> None:
    environ = os.environ | {"PYTHONPATH": str(Path(machine.__file__).parents[1])}
    command = [sys.executable, "-c", GIVEN_BACK]
    output = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
    small_had, small_left, large_had, large_left, at_once, later, *rest = map(int, output.split())
    assert small_had >= 8 and small_left == small_had, "little more than usual is kept"
    assert large_had >= 64 and large_left < 16
    assert at_once >= 64, "not twice within a second"
    assert later < 16
    busy, soon, in_the_end = rest
    assert 40 <= busy < 56 and soon >= 40, "what was in use at that time counts as usual"
    assert in_the_end < 16, "for ten seconds"


def test_forget_garbage__also_what_an_earlier_call_has_kept() -> None:
    class Circle:
        def __init__(self) -> None:
            self.me = self

    try:
        old, dropped = Circle(), weakref.ref(Circle())
        machine.forget_garbage()
        assert dropped() is None
        assert gc.get_freeze_count() > 1000, "no later collection looks at what there is"
        dropped = weakref.ref(old)
        del old
        gc.collect()
        assert dropped() is not None
        machine.forget_garbage()
        assert dropped() is None
    finally:
        gc.unfreeze()
