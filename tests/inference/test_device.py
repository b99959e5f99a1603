from __future__ import annotations

import pytest
import torch
from tilewise.errors import UserError
from tilewise.inference.device import require_supported_gpus


def put_in(
    monkeypatch: pytest.MonkeyPatch, capabilities: list[tuple[int, int]], built_for: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Tesla {index}")


BUILT_FOR = ["sm_70", "sm_75", "sm_80", "sm_90", "sm_100", "compute_120"]


@pytest.mark.parametrize("capabilities", [[], [(7, 0)], [(8, 0), (9, 0)], [(12, 0)]])
def test_gpus__that_have_kernels(
    capabilities: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(monkeypatch, capabilities, BUILT_FOR)
    require_supported_gpus()


@pytest.mark.parametrize(("capability", "name"), [((3, 7), "3.7"), ((6, 1), "6.1")])
def test_gpus__that_are_too_old(
    capability: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in(monkeypatch, [(7, 0), capability], BUILT_FOR)
    with pytest.raises(
        UserError, match=rf"GPU Tesla 1 has compute capability {name}, .* needs 7\.0: .*ml\.p2"
    ):
        require_supported_gpus()


def test_gpus__a_build_for_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in(monkeypatch, [], [])
    require_supported_gpus()
