"""Views made of several of a batch: mosaic (YOLOv4) and mixup (Zhang et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tilewise.augment.transform import Transform
from tilewise.masks import MASKS, bitmaps_in
from tilewise.targets import Targets
from tilewise.views.arrays import FILL
from tilewise.views.sample import Sample

MIN_VISIBILITY = 0.4
"""Objects of which a part shows less are ignored."""


@dataclass(frozen=True)
class _Mixing(Transform):
    """Makes views of a sample and of others of its batch.

    Attributes:
        probability: of a sample.

    """

    mixes: ClassVar[bool] = True
    needs_others: ClassVar[bool] = False
    """Whether there is nothing to do in a batch of one."""

    probability: float

    def change_samples(
        self, samples: Sequence[Sample], rngs: Sequence[np.random.Generator]
    ) -> Sequence[Sample]:
        """Those that are drawn."""
        possible = len(samples) > 1 or not self.needs_others
        return [
            self._mix(samples, number, rng)
            if rng.random() < self.probability and possible
            else samples[number]
            for number, rng in enumerate(rngs)
        ]

    @staticmethod
    def _mix(samples: Sequence[Sample], number: int, rng: np.random.Generator) -> Sample:
        raise NotImplementedError


class Mosaic(_Mixing):
    """Shows parts of four views around a point, each at its own scale: small ones stay as they are.

    Three parts are of other samples of the batch, if there are any.
    """

    @staticmethod
    def _mix(samples: Sequence[Sample], number: int, rng: np.random.Generator) -> Sample:
        height, width = samples[number].pixels.shape[1:]
        if min(height, width) < 2:  # there is nothing to divide
            return samples[number]
        x, y = (max(1, int(rng.uniform(0.25, 0.75) * side)) for side in (width, height))
        others = [*range(number), *range(number + 1, len(samples))] or [number]
        chosen = [number, *rng.choice(others, 3).tolist()]
        places = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        pixels = torch.empty((3, height, width), dtype=torch.uint8)
        parts: list[Targets[Tensor]] = []
        for source, place in zip(rng.permutation(chosen).tolist(), places, strict=True):
            x0, y0, x1, y1 = place
            view, targets = _part(samples[source], (x1 - x0, y1 - y0), rng)
            pixels[:, y0:y1, x0:x1] = view
            parts.append(targets.crop((-x0, -y0, width - x0, height - y0), (width, height)))
        return Sample(pixels, Targets.cat(parts))


class MixUp(_Mixing):
    """Shows two views of a batch in one another, and the objects of both."""

    needs_others: ClassVar[bool] = True

    @staticmethod
    def _mix(samples: Sequence[Sample], number: int, rng: np.random.Generator) -> Sample:
        own = samples[number]
        height, width = own.pixels.shape[1:]
        other = (number + 1 + int(rng.integers(len(samples) - 1))) % len(samples)
        view, targets = _part(samples[other], (width, height), rng)
        share = float(rng.uniform(0.4, 0.6))
        mixed = share * own.pixels.float() + (1 - share) * view.float()
        return Sample(mixed.round().to(torch.uint8), Targets.cat([own.targets, targets]))


def _part(sample: Sample, size: tuple[int, int], rng: np.random.Generator) -> tuple[Tensor, Targets[Tensor]]:
    """A random part of a view, of (width, height), filled up where the view is smaller."""
    (width, height), (_, own_height, own_width) = size, sample.pixels.shape
    x0 = int(rng.integers(max(0, own_width - width) + 1))
    y0 = int(rng.integers(max(0, own_height - height) + 1))
    shown = sample.pixels[:, y0 : y0 + height, x0 : x0 + width]
    pixels = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].repeat(1, height, width)
    pixels[:, : shown.shape[1], : shown.shape[2]] = shown
    window = (x0, y0, x0 + width, y0 + height)
    targets = sample.targets.crop(window, size, min_visibility=MIN_VISIBILITY)
    masks = bitmaps_in(targets.fields)
    if masks is not None:  # beyond it another view is shown
        targets = replace(targets, fields={**targets.fields, MASKS: masks.cut(size)})
    return pixels, targets
