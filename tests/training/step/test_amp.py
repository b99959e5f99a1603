from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tilewise import machine
from tilewise.training.step.amp import choose_precision, keep_depthwise_in_float32
from torch import nn


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((6, 1), torch.float32),  # P40
        ((7, 0), torch.float16),  # V100
        ((7, 5), torch.float16),  # T4
        ((8, 0), torch.bfloat16),  # A100
        ((8, 6), torch.bfloat16),  # A10G
        ((12, 0), torch.bfloat16),
    ],
)
def test_auto__on_a_gpu_is_what_its_tensor_cores_have(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    chosen = choose_precision("auto", torch.device("cuda"))
    assert chosen.dtype == dtype
    assert chosen.scaled == (dtype == torch.float16)
    assert f"capability {capability[0]}.{capability[1]}" in chosen.reason


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("fpu avx512f avx512_bf16", torch.bfloat16),
        ("fpu amx_bf16 amx_tile", torch.bfloat16),
        ("fpu avx2 avx512f", torch.float32),
    ],
)
def test_auto__on_a_cpu_is_bf16_only_where_it_is_fast(
    flags: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name : x\nflags\t\t: {flags}\n")
    monkeypatch.setattr(machine, "CPU", tmp_path / "cpuinfo")
    assert choose_precision("auto", torch.device("cpu")).dtype == dtype


def test_wanted__is_taken_with_a_warning_where_it_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "CPU", tmp_path / "none")
    assert choose_precision("fp32", torch.device("cpu")).dtype == torch.float32
    assert not caplog.text
    assert choose_precision("bf16", torch.device("cpu")).dtype == torch.bfloat16
    assert "precision=bf16: this CPU is not fast with it" in caplog.text


def test_keep_depthwise_in_float32__leaves_the_others_to_autocast() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    names = list(network.state_dict())
    image = torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    expected = network(image)
    keep_depthwise_in_float32(network)
    torch.testing.assert_close(network(image), expected)
    assert list(network.state_dict()) == names
    with torch.autocast("cpu", torch.bfloat16):
        each = [image]
        for layer in copy.deepcopy(network):
            each.append(layer(each[-1]))
    assert {one.dtype for one in each[1:]} == {torch.bfloat16}
    torch.testing.assert_close(each[-1].float(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("bias", [False, True])
def test_keep_depthwise_in_float32__gives_the_gradients_of_float32_and_keeps_no_copy_in_it(
    *, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=bias)
    network = nn.Sequential(copy.deepcopy(plain))
    keep_depthwise_in_float32(network)
    image = torch.randn(2, 6, 9, 8, generator=generator).bfloat16().requires_grad_()
    of_float = image.detach().float().requires_grad_()
    weights = torch.randn(2, 6, 5, 4, generator=generator).bfloat16()
    kept: list[torch.dtype] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape == image.shape:
            kept.append(tensor.dtype)
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        out = network(image)
    expected = plain(of_float)
    torch.testing.assert_close(out, expected.bfloat16())
    assert kept == [torch.bfloat16]

    out.backward(weights)
    expected.backward(weights.float())
    assert image.grad is not None
    assert of_float.grad is not None
    torch.testing.assert_close(image.grad, of_float.grad.bfloat16())
    for own, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad)
