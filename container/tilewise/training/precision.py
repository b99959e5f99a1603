from __future__ import annotations

import logging
from typing import Literal, NamedTuple

import torch
from torch import nn

from tilewise.machine import cpu_fact

log = logging.getLogger(__name__)

FASTEST_BF16, FASTEST_FP16 = (8, 0), (7, 0)
"""Compute capabilities from which on there are tensor cores: for bfloat16 A100's, for float16 V100's."""


class Precision(NamedTuple):
    """The numbers that convolutions are computed in, and why."""

    dtype: torch.dtype
    reason: str

    @property
    def scaled(self) -> bool:
        """Whether gradients are so small in it that the loss must be scaled up."""
        return self.dtype == torch.float16


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(
    wanted: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device, network: nn.Module
) -> Precision:
    """What a network trains in: what is asked for, else what the device is fast with.

    A GPU with tensor cores gets bfloat16 from compute capability 8.0 on, and float16 below (7.0 and 7.5). A
    CPU with instructions for bfloat16 gets it for networks of dense convolutions: those within each channel
    (MobileNet's, YOLOX-nano's) are slower in it than in float32.
    """
    if wanted != "auto":
        chosen = Precision(_DTYPES[wanted], f"precision={wanted}")
        if chosen.dtype != torch.float32 and chosen.dtype != _auto(device, network).dtype:
            log.warning("precision=%s: %s is not fast with it", wanted, _named(device))
        return chosen
    return _auto(device, network)


def _auto(device: torch.device, network: nn.Module) -> Precision:
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        reason = f"{_named(device)} has compute capability {capability[0]}.{capability[1]}"
        if capability >= FASTEST_BF16:
            return Precision(torch.bfloat16, reason)
        return Precision(torch.float16 if capability >= FASTEST_FP16 else torch.float32, reason)
    if not has_bf16_instructions():
        return Precision(torch.float32, "this CPU has no instructions for bfloat16")
    if not _all_convolutions_are_dense(network):
        return Precision(torch.float32, "a CPU is slow with depthwise convolutions in bfloat16")
    return Precision(torch.bfloat16, "this CPU has instructions for bfloat16")


def has_bf16_instructions() -> bool:
    """Whether the CPU computes in bfloat16 (AVX512_BF16 or AMX), and does not only convert."""
    flags = cpu_fact("flags")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _all_convolutions_are_dense(network: nn.Module) -> bool:
    groups = [module.groups for module in network.modules() if isinstance(module, nn.Conv2d)]
    return bool(groups) and max(groups) == 1


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
