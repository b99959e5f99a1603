from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from tilewise.fields import to_device
from tilewise.targets import Targets
from tilewise.views.sample import Sample


@dataclass(frozen=True)
class Batch:
    """Training samples on the CPU, in one tensor of each kind, whatever their shapes.

    From a loader process each tensor comes through shared memory of its own, which costs the process that
    trains some tenths of a millisecond, and sixteen samples have 64 (benchmarks/hand_over.py).

    Attributes:
        pixels: (Σ 3 h w,) uint8, one view after the other.
        targets: those of all views, one after the other, each in its view's frame.
        sizes: (height, width) of each view.
        counts: of each view, how many of the targets are its.
        damaged: key and reason of each image that could not be decoded.

    """

    pixels: Tensor
    targets: Targets[Tensor]
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
            targets=Targets.cat([each.targets for each in samples] or [Targets.none().to("cpu")]),
            sizes=[(each.pixels.shape[1], each.pixels.shape[2]) for each in samples],
            counts=[len(each.targets) for each in samples],
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
        return replace(self, pixels=self.pixels.pin_memory(), targets=self.targets.pin_memory())

    def samples(self, device: torch.device) -> list[Sample]:
        """The samples, on the device that learns from them.

        Which boxes are ignored stays on the CPU, which must know how many these are.
        """
        pixels, targets = to_device(self.pixels, device), self.targets.to(device)
        views = pixels.split([3 * height * width for height, width in self.sizes])
        parts = pairwise(accumulate(self.counts, initial=0))
        return [
            Sample(view.view(3, *size), targets.select(slice(*part)))
            for view, size, part in zip(views, self.sizes, parts, strict=True)
        ]
