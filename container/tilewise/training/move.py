from __future__ import annotations

import torch
from torch import Tensor

from tilewise.views.sample import Sample


def to_device(samples: list[Sample], device: torch.device) -> list[Sample]:
    """A batch on the device that learns from it.

    To a GPU goes one block of all pixels, one of boxes and one of labels, from pinned memory, so that nothing
    waits for them. Which boxes are ignored stays on the CPU, which must know how many these are.
    """
    if device.type == "cpu":
        return samples
    pixels = _in_one_copy([sample.pixels for sample in samples], device)
    boxes = _in_one_copy([sample.boxes for sample in samples], device)
    labels = _in_one_copy([sample.labels for sample in samples], device)
    ignored = [sample.ignored for sample in samples]
    return [Sample(*parts) for parts in zip(pixels, boxes, labels, ignored, strict=True)]


def _in_one_copy(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors, of one type and any shapes, on the device."""
    counts = [tensor.numel() for tensor in tensors]
    block = torch.empty(sum(counts), dtype=tensors[0].dtype, pin_memory=device.type == "cuda")
    torch.cat([tensor.reshape(-1) for tensor in tensors], out=block)
    pieces = block.to(device, non_blocking=True).split(counts)
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]
