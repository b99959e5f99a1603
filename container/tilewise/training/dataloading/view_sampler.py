"""Which views of which images an epoch trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from torch.utils.data import Sampler

from tilewise.arrays import Float32, Float64
from tilewise.data.records import Record, Records
from tilewise.tiling.chips import background_views, sniper_views
from tilewise.tiling.plan import plan_views
from tilewise.tiling.spec import Tiling
from tilewise.training.dataloading.copies import Copies
from tilewise.training.dataloading.repeats import drawn_counts
from tilewise.training.dataloading.view_order import Copy, Item, index_of, spread
from tilewise.views.view import Scaling, View, views_with_objects, whole_image

TrainingViews = Literal["whole", "grid", "fixed", "snip", "sniper"]


@dataclass
class ViewPlanner:
    """Draws the views that an epoch trains on.

    Attributes:
        views: the hyperparameter ``training_views``.
        tiling: what the model is validated with.
        scaling: of its views.
        chip_size: of ``sniper``, see :func:`tilewise.tiling.chips.chip_of`.
        negative_ratio: views without objects for each view with some.
        min_visibility: a box of which a view shows a smaller share is not an object of it.
        false_positives: for some records' indices boxes that a model took for objects and are none.
        repeats: how often to show the views of each record, see :func:`repeat_factors`; None for once. Of
            records beyond these, which are copies, once.

    """

    views: TrainingViews
    tiling: Tiling
    scaling: Scaling
    chip_size: int | None = None
    negative_ratio: float = 0.0
    min_visibility: float = 0.0
    false_positives: Mapping[int, Float32] = field(default_factory=dict)
    repeats: Float64 | None = None

    def draw(self, records: Sequence[Record], rng: np.random.Generator) -> list[list[View]]:
        """The views of each record.

        Of whole, grid and fixed the whole image is always among them, unless it is there for large objects
        only; of what else has no object, so many as the ratio says.
        """
        views_by_image: list[list[View]] = []
        empty: list[tuple[int, View]] = []
        for index, record in enumerate(records):
            planned_views = self._plan(record, rng)
            full = self._with_objects(record, planned_views)
            views_by_image.append([view for view, keep in zip(planned_views, full, strict=True) if keep])
            empty += [(index, view) for view, keep in zip(planned_views, full, strict=True) if not keep]
        num_negatives = round(self.negative_ratio * sum(map(len, views_by_image)))
        if not any(views_by_image):  # no objects at all: there is nothing else to learn from
            num_negatives = len(records)
        for index, view in self._negatives(records, empty, num_negatives, rng):
            views_by_image[index].append(view)
        if self.repeats is None:
            return views_by_image
        counts = drawn_counts(self.repeats, rng).tolist()
        repeated = [views * count for views, count in zip(views_by_image, counts, strict=False)]
        return repeated + views_by_image[len(counts) :]

    def _plan(self, record: Record, rng: np.random.Generator) -> Sequence[View]:
        if self.views == "sniper":
            boxes = record.targets.boxes[~record.targets.ignored]
            return sniper_views(
                record.width,
                record.height,
                boxes,
                levels=self.tiling.levels,
                scaling=self.scaling,
                chip_size=self.chip_size,
                rng=rng,
            )
        return _training_views(self.views, self.tiling, record.width, record.height, self.scaling)

    def _with_objects(self, record: Record, views: Sequence[View]) -> list[bool]:
        """Which views show an object that they answer for, or are always trained on."""
        if self.views == "sniper":
            return [True] * len(views)
        first = self.views in ("whole", "grid", "fixed") and not self.tiling.whole_from
        boxes = record.targets.boxes[~record.targets.ignored]
        full: list[bool] = views_with_objects(views, boxes, self.min_visibility).tolist()
        return [True, *full[1:]] if first else full

    def _negatives(
        self, records: Sequence[Record], empty: list[tuple[int, View]], count: int, rng: np.random.Generator
    ) -> Iterator[tuple[int, View]]:
        if self.views != "sniper":
            for number in rng.permutation(len(empty))[:count].tolist():
                yield empty[number]
            return
        many, few = divmod(count, len(records))
        shares = np.full(len(records), many)
        shares[rng.permutation(len(records))[:few]] += 1
        for index in np.flatnonzero(shares).tolist():
            record = records[index]
            negatives = background_views(
                record.width,
                record.height,
                record.targets.boxes,
                levels=self.tiling.levels,
                scaling=self.scaling,
                chip_size=self.chip_size,
                count=int(shares[index]),
                rng=rng,
                false_positives_M4=self.false_positives.get(index),
            )
            yield from ((index, view) for view in negatives)


def one_view(record: Record, rng: np.random.Generator, planner: ViewPlanner | None = None) -> View | None:
    """One of the views that a planner has for a record; None for its whole image, without a planner."""
    views = planner.draw([record], rng)[0] if planner else []
    return views[int(rng.integers(len(views)))] if views else None


@lru_cache(maxsize=1024)
def _training_views(
    views: TrainingViews, tiling: Tiling, width: int, height: int, scaling: Scaling
) -> tuple[View, ...]:
    """All views of an image of one size; the same for all of that size."""
    if views == "whole":
        return tuple(whole_image(width, height, scaling))
    return tuple(plan_views(tiling, width, height, scaling=scaling, training=True))


class ViewSampler(Sampler[list[Item]]):
    """Each epoch its views in whole batches, ordered so that a decoded image serves several of them.

    An epoch has as many batches as the first one. Each view carries a seed of its own.

    Args:
        records: of the training data.
        planner: draws the views.
        batch_size: views in a batch.
        lanes: batches are dealt to so many loader processes in turn: an image's views all go to one of them.
        pool: from so many images at a time a lane takes its views.
        factors: that the size of a batch's views is multiplied by, one drawn for each batch, the first the
            largest; see :func:`scaled`.
        seed: of all that is drawn.
        copies: the images that come once more with objects pasted.

    Attributes:
        first: the batches of the first epoch, before their views get their sizes.

    """

    def __init__(  # noqa: PLR0913  # all that decides what an epoch shows
        self,
        records: Records,
        planner: ViewPlanner,
        batch_size: int,
        *,
        lanes: int,
        pool: int,
        factors: Sequence[float],
        seed: int,
        copies: Copies | None = None,
    ):
        self.copies = copies
        self.records, self.planner, self.batch_size = records, planner, batch_size
        self.lanes, self.pool, self.factors, self.seed = lanes, pool, factors, seed
        self.epoch = 0
        self.first, self._first_factors = self._draw(0)

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[list[Item]]:
        batches, factors = (self.first, self._first_factors) if self.epoch == 0 else self._draw(self.epoch)
        for number in range(len(self)):
            batch, factor = batches[number % len(batches)], factors[number % len(batches)]
            yield [(image, scaled(view, factor), seed) for image, view, seed in batch]

    def _draw(self, epoch: int) -> tuple[list[list[Item]], list[float]]:
        """The batches of an epoch, and what the size of each one's views is multiplied by."""
        rng = np.random.default_rng((self.seed, epoch))
        images: list[int | Copy] = [*range(len(self.records))]
        records: Sequence[Record] = self.records
        if self.copies:
            copies = self.copies.draw(self.seed, epoch)
            images += copies
            records = [*records, *(self.copies.pasted(copy, records[index_of(copy)]) for copy in copies)]
        items: list[list[Item]] = [
            [(image, view, int(rng.integers(2**63))) for view in views]
            for image, views in zip(images, self.planner.draw(records, rng), strict=True)
        ]
        batches = spread(items, self.batch_size, self.lanes, pool=self.pool, rng=rng)
        if len(self.factors) == 1:
            return batches, [self.factors[0]] * len(batches)
        factors: list[float] = rng.choice(self.factors, len(batches)).tolist()
        if epoch == 0:
            factors[0] = max(self.factors)
        return batches, factors


def scaled(view: View | None, factor: float) -> View:
    """A view whose size is ``factor`` times as large."""
    assert view is not None
    if factor == 1:
        return view
    width, height = (max(1, round(factor * side)) for side in view.size)
    return replace(view, size=(width, height))
