from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tilewise.training.dataloading.loader import _one_thread
from tilewise.training.job import cpu
from tilewise.training.job.cpu import tune_cpu


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("set_by_user", "processes", "threads"), [("", 1, 3), ("", 2, 1), ("", 8, 1), ("1", 1, 1)]
)
def test_threads__follow_the_quota_unless_the_user_says_otherwise(
    set_by_user: str, processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "available_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", set_by_user)
    torch.set_num_threads(2)
    tune_cpu(processes)
    assert torch.get_num_threads() == threads


def test_loader_process__has_one_thread_and_flushes_subnormal_numbers() -> None:
    torch.set_flush_denormal(False)
    torch.set_num_threads(2)
    _one_thread(0)
    assert torch.get_num_threads() == 1
    assert torch.tensor([1e-30]).mul(1e-12).item() == 0
