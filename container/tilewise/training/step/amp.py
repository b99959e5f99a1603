from __future__ import annotations

import logging
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from tilewise.machine import cpu_fact

log = logging.getLogger(__name__)

FASTEST_BF16, FASTEST_FP16 = (8, 0), (7, 0)
"""Compute capabilities from which on there are tensor cores: for bfloat16 A100's, for float16 V100's."""

IN_FLOAT32 = 4_000_000
"""Values of a map, where a layer computes in float32 and its neighbours do not: as many at once at most."""


class Precision(NamedTuple):
    """The numbers that convolutions are computed in, and why."""

    dtype: torch.dtype
    reason: str

    @property
    def scaled(self) -> bool:
        """Whether gradients are so small in it that the loss must be scaled up."""
        return self.dtype == torch.float16


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(setting: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """What a network trains in: what is asked for, else what the device is fast with.

    A GPU with tensor cores gets bfloat16 from compute capability 8.0 on, and float16 below (7.0 and 7.5). A
    CPU gets bfloat16 if it has instructions for it; see :func:`keep_depthwise_in_float32`.
    """
    if setting != "auto":
        precision = Precision(_DTYPES[setting], f"precision={setting}")
        if precision.dtype != torch.float32 and precision.dtype != _auto(device).dtype:
            log.warning("precision=%s: %s is not fast with it", setting, _named(device))
        return precision
    return _auto(device)


def _auto(device: torch.device) -> Precision:
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        reason = f"{_named(device)} has compute capability {capability[0]}.{capability[1]}"
        if capability >= FASTEST_BF16:
            return Precision(torch.bfloat16, reason)
        return Precision(torch.float16 if capability >= FASTEST_FP16 else torch.float32, reason)
    if not has_bf16_instructions():
        return Precision(torch.float32, "this CPU has no instructions for bfloat16")
    return Precision(torch.bfloat16, "this CPU has instructions for bfloat16")


class _DepthwiseConv2d(nn.Conv2d):
    """In float32 also under autocast; takes and gives maps in the numbers of the other layers."""

    def forward(self, input: Tensor) -> Tensor:
        """Of (N, C, H, W), on a CPU."""
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input.float())
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            out: Tensor = _InFloat32.apply(input, self.weight, self.bias, self, dtype)
        return out


class _InFloat32(torch.autograd.Function):
    """A convolution in float32, which keeps its input for the gradient as it was.

    Autograd alone keeps the input's copy in float32 beside it, and the layers behind work on maps in float32:
    a third more memory for SSDlite's steps (benchmarks/README.md).
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.layer = layer
        out: Tensor = layer._conv_forward(input.float(), weight, bias)
        return out.to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (input, weight), layer = ctx.saved_tensors, ctx.layer
        of_input, sums = torch.empty_like(input), []
        few = max(1, IN_FLOAT32 // max(1, input[0].numel()))
        for first in range(0, len(input), few):  # not all at once in float32
            some = slice(first, first + few)
            to_input, *to_weights = torch.ops.aten.convolution_backward(
                gradient[some].float(),
                input[some].float(),
                weight,
                bias_sizes=None if layer.bias is None else layer.bias.shape,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                transposed=False,
                output_padding=(0, 0),
                groups=layer.groups,
                output_mask=(True, *ctx.needs_input_grad[1:3]),
            )
            of_input[some] = to_input
            sums.append(to_weights)
        of_weight, of_bias = (None if each[0] is None else sum(each) for each in zip(*sums, strict=True))
        return of_input, of_weight, of_bias, None, None


def keep_depthwise_in_float32(network: nn.Module) -> None:
    """Let a CPU compute convolutions within each channel (MobileNet's, YOLOX-nano's) in float32.

    It is slow with them in bfloat16, though not with the others beside them.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups > 1:
            module.__class__ = _DepthwiseConv2d


def has_bf16_instructions() -> bool:
    """Whether the CPU computes in bfloat16 (AVX512_BF16 or AMX), and does not only convert."""
    flags = cpu_fact("flags")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
