from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tilewise.training import cpu
from tilewise.training.cpu import tune_cpu
from tilewise.training.loader import _one_thread
from tilewise.training.move import _in_one_copy


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("set_by_user", "processes", "threads"), [("", 1, 3), ("", 2, 1), ("", 8, 1), ("1", 1, 2)]
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


def test_one_copy__gives_back_every_tensor() -> None:
    tensors = [torch.arange(6, dtype=torch.uint8).view(1, 2, 3), torch.zeros(0, dtype=torch.uint8)]
    tensors.append(torch.arange(20, dtype=torch.uint8).view(2, 10)[:, ::2])
    for back, tensor in zip(_in_one_copy(tensors, torch.device("cpu")), tensors, strict=True):
        assert back.shape == tensor.shape and torch.equal(back, tensor)
