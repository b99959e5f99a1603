"""What a job chooses of how boxes are learnt: their weights by size, and which priors learn which object.

None of it is part of a model: a trained one does not know how its boxes were learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tilewise.boxes import area, sides
from tilewise.fields import Rows
from tilewise.models.totals import mean_over_processes
from tilewise.targets import Targets
from tilewise.views.sample import IMAGE_SIZE

SMALL = 32.0
"""Smaller objects are small (COCO): √area of the box in pixels of the upright image."""

LEAST_WEIGHT, MOST_WEIGHT = 1 / 3, 3.0

AssignmentName = Literal["default", "nwd", "rfla"]


@dataclass
class PositiveCounts:
    """How many objects of each size have no positive prior, counted as batches are learnt.

    Attributes:
        limits: the sizes at which one class ends and the next begins, √area in pixels of the upright image.
        counts: (classes, 2) float64, on the device: all objects, and those without a positive prior.

    """

    limits: Sequence[float]
    counts: Tensor | None = None

    def add(self, sizes_M: Tensor, found_M: Tensor) -> None:
        """Count objects of these sizes, and which have a positive prior."""
        limits = torch.tensor(list(self.limits)).to(sizes_M.device, sizes_M.dtype, non_blocking=True)
        classes = torch.bucketize(sizes_M, limits, right=True)
        rows = torch.stack([torch.ones_like(sizes_M), (~found_M).to(sizes_M.dtype)], dim=1).double()
        if self.counts is None:
            self.counts = torch.zeros((len(self.limits) + 1, 2), dtype=torch.float64, device=sizes_M.device)
        self.counts.index_add_(0, classes, rows)


@dataclass(frozen=True)
class BoxLearning:
    """How a detector's boxes are learnt.

    ``small_factor`` is the thesis' (Manaiev, Tartu 2022): an overlap of a small object counts so many times
    in ``1 - factor * overlap``. Below 1 the loss is larger and its gradient *smaller*, in proportion. Of a
    distance, which has no such form, it is the gradient that is alike: ``factor * distance``.

    ``size_exponent`` weighs a box's loss by (mean area / area) to this power, between a third and three, and
    then by what makes the mean 1 over the positive priors of all processes: above 0 small objects count more.

    Attributes:
        small_factor: of objects below :data:`SMALL`.
        size_exponent: 0 for no weights.
        assignment: which priors are positive.
        object_size: √area of a typical object in pixels of a view: the constant of ``nwd``.
        counts: where objects without a positive prior are counted; None where nobody does.

    """

    small_factor: float = 1.0
    size_exponent: float = 0.0
    assignment: AssignmentName = "default"
    object_size: float = SMALL
    counts: PositiveCounts | None = field(default=None, compare=False)

    @property
    def weighs(self) -> bool:
        """Whether sizes of objects matter to the losses of their boxes."""
        return self.small_factor != 1 or self.size_exponent != 0

    def from_overlap(
        self, overlap: Tensor, sizes: Callable[[], Tensor], counted: Tensor | None = None
    ) -> Tensor:
        """The loss of boxes with these overlaps.

        Args:
            overlap: of each, 1 at most.
            sizes: of their objects, :data:`IMAGE_SIZE`, of the same shape; asked for where they matter.
            counted: bool, which boxes have an object; None for all.

        """
        if not self.weighs:
            return 1 - overlap
        factors, weights = self._weights(sizes(), counted)
        return weights * (1 - factors * overlap)

    def from_distance(
        self, distance: Tensor, sizes: Callable[[], Tensor], counted: Tensor | None = None
    ) -> Tensor:
        """The same of boxes with these distances, 0 at least."""
        if not self.weighs:
            return distance
        factors, weights = self._weights(sizes(), counted)
        return weights * factors * distance

    def _weights(self, sizes: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
        factors = torch.where(sizes < SMALL, self.small_factor, 1.0)
        if not self.size_exponent:
            return factors, torch.ones_like(factors)
        counted = torch.ones_like(sizes) if counted is None else counted.to(sizes.dtype)
        areas = sizes.square().clamp(min=1)
        total, count = mean_over_processes(torch.stack([(areas * counted).sum(), counted.sum()])).unbind()
        count = count.clamp(min=1e-9)
        weights = (total / count / areas).pow(self.size_exponent).clamp(LEAST_WEIGHT, MOST_WEIGHT)
        mean = mean_over_processes((weights * counted).sum()) / count
        return factors, weights / mean.clamp(min=1e-9)


def image_sizes(targets: Sequence[Targets[Tensor]]) -> list[Tensor]:
    """Of each view's objects, ignored ones left out, √area in pixels of the image; of the view if unknown."""
    sizes = []
    for target in targets:
        known = target.fields.get(IMAGE_SIZE)
        size = known.values if isinstance(known, Rows) else area(target.boxes).sqrt()
        assert isinstance(size, Tensor)
        if target.ignored.any():
            kept = torch.nonzero(~target.ignored).flatten().to(size.device, non_blocking=True)
            size = size[kept]
        sizes.append(size)
    return sizes


def nwd(boxes_M4: Tensor, anchors_A4: Tensor, object_size: float) -> Tensor:
    """Normalised Gaussian Wasserstein distance of all pairs (Wang et al. 2021, arXiv 2110.13389): (M, A).

    A box is the Gaussian N(centre, diag(w²/4, h²/4)). The squared 2-Wasserstein distance of two is that of
    their centres plus that of their half sides; NWD is exp(-distance / ``object_size``). Unlike IoU it falls
    smoothly where a tiny object and an anchor hardly overlap.
    """
    box_places, anchor_places = (
        torch.cat([(each[:, :2] + each[:, 2:]) / 2, sides(each) / 2], dim=1)
        for each in (boxes_M4, anchors_A4)
    )
    # Not by a product of matrices, which rounds, on a GPU to ten bits: an anchor would be far from itself.
    distance = torch.cdist(box_places, anchor_places, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-distance / object_size)
