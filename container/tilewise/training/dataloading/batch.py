from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tilewise.views.sample import Sample


@dataclass(frozen=True)
class Batch:
    """Training samples on the CPU, in one tensor of each kind, whatever their shapes.

    From a loader process each tensor comes through shared memory of its own, which costs the process that
    trains some tenths of a millisecond, and sixteen samples have 64 (benchmarks/hand_over.py).

    Attributes:
        pixels: (Σ 3 h w,) uint8, one view after the other.
        boxes: (M, 4) float32, those of all views, each in its view's frame.
        labels: (M,) int64, 0-based.
        ignored: (M,) bool.
        sizes: (height, width) of each view.
        counts: of each view, how many of the boxes are its.
        damaged: key and reason of each image that could not be decoded.

    """

    pixels: Tensor
    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    sizes: Sequence[tuple[int, int]]
    counts: Sequence[int]
    damaged: Sequence[tuple[str, str]] = ()

    @classmethod
    def of(cls, samples: Sequence[Sample], damaged: Iterable[tuple[str, str]] = ()) -> Batch:
        """Of samples; it may be without any."""
        return cls(
            pixels=torch.cat(
                [torch.empty(0, dtype=torch.uint8), *(each.pixels.flatten() for each in samples)]
            ),
            boxes=torch.cat([torch.empty(0, 4), *(each.boxes for each in samples)]),
            labels=torch.cat([torch.empty(0, dtype=torch.int64), *(each.labels for each in samples)]),
            ignored=torch.cat([torch.empty(0, dtype=torch.bool), *(each.ignored for each in samples)]),
            sizes=[(each.pixels.shape[1], each.pixels.shape[2]) for each in samples],
            counts=[len(each.labels) for each in samples],
            damaged=list(damaged),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def area(self) -> int:
        """The pixels of all views."""
        return len(self.pixels) // 3

    def pin_memory(self) -> Batch:
        """With what goes to a GPU in pinned memory, so that nothing waits for the copy; for DataLoader."""
        return replace(
            self,
            pixels=self.pixels.pin_memory(),
            boxes=self.boxes.pin_memory(),
            labels=self.labels.pin_memory(),
        )

    def samples(self, device: torch.device) -> list[Sample]:
        """The samples, on the device that learns from them.

        Which boxes are ignored stays on the CPU, which must know how many these are.
        """
        batch = self.pin_memory() if device.type == "cuda" else self  # at no cost where it is already
        pixels, boxes, labels = (
            tensor.to(device, non_blocking=True) for tensor in (batch.pixels, batch.boxes, batch.labels)
        )
        views = pixels.split([3 * height * width for height, width in self.sizes])
        counts = list(self.counts)
        parts = zip(
            views,
            self.sizes,
            boxes.split(counts),
            labels.split(counts),
            self.ignored.split(counts),
            strict=True,
        )
        return [Sample(view.view(3, *size), *targets) for view, size, *targets in parts]
