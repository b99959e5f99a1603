"""The order of an epoch's views: near enough to decode an image once, far enough to keep batches mixed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tilewise.views.view import View

MAX_POOL = 256
"""More images open at a time mix batches hardly better, and each of them is looked at for each batch."""

Item = tuple[int, View | None, int]
"""A record's index, the view of it to train on (None: the whole image), and the seed of its augmentation."""


def spread(
    items: Sequence[Sequence[Item]], batch_size: int, lanes: int, pool: int, rng: np.random.Generator
) -> list[list[Item]]:
    """Batches in which an image's views stand near each other, but not in the same batch where avoidable.

    A lane holds ``pool`` images open and fills a batch with one view each of some of them, drawn with
    probabilities as the views that they have left, then with second views; an image without views left makes
    room for the next. So an epoch's end is as mixed as the pool: the statistics of batch normalisation, which
    validation uses, are those of the last few dozen batches.

    Args:
        items: those of each image.
        batch_size: all batches have as many; the last is filled up from the beginning.
        lanes: batch ``i`` belongs to lane ``i % lanes``.
        pool: at least 1.
        rng: draws.

    """
    lines: list[list[Item]] = [[] for _ in range(lanes)]
    queues: list[list[list[Item]]] = [[] for _ in range(lanes)]
    loads = [0] * lanes
    for index in rng.permutation(len(items)).tolist():
        if items[index]:
            lane = loads.index(min(loads))
            loads[lane] += len(items[index])
            order = rng.permutation(len(items[index])).tolist()
            queues[lane].append([items[index][number] for number in order])
    for line, queue in zip(lines, queues, strict=True):
        line += _interleave(queue[::-1], batch_size, pool, rng)
    dealt = [
        [line[start : start + batch_size] for start in range(0, len(line), batch_size)] for line in lines
    ]
    most = max(map(len, dealt))
    ordered = [lane[number] for number in range(most) for lane in dealt if number < len(lane)]
    whole = [batch for batch in ordered if len(batch) == batch_size]
    rest = [item for batch in ordered if len(batch) < batch_size for item in batch]
    everything = [item for batch in whole for item in batch] + rest
    if rest:
        again = [everything[number % len(everything)] for number in range(-len(rest) % batch_size)]
        rest += [(index, view, int(rng.integers(2**63))) for index, view, _ in again]
    return whole + [rest[start : start + batch_size] for start in range(0, len(rest), batch_size)]


def _interleave(
    queue: list[list[Item]], batch_size: int, pool: int, rng: np.random.Generator
) -> Iterator[Item]:
    open_images: list[list[Item]] = []
    while queue or open_images:
        left = batch_size
        while left and (queue or open_images):
            while queue and len(open_images) < pool:
                open_images.append(queue.pop())
            # Taken as often as small images, large ones, which have more views, would be left for the end.
            views = np.array([len(image) for image in open_images])
            chosen = np.argsort(rng.exponential(size=len(views)) / views)[:left].tolist()
            for number in chosen:
                yield open_images[number].pop()
            left -= len(chosen)
            open_images = [image for image in open_images if image]


@dataclass(frozen=True)
class OrderFigures:
    """What an order of views costs and is worth.

    Attributes:
        decodes_per_view: how often an image is decoded for each view; 1 when every view needs it anew.
        images_per_batch: different images in a batch, on average.

    """

    decodes_per_view: float
    images_per_batch: float


def measure_order(batches: Sequence[Sequence[Item]], lanes: int, cached_images: int) -> OrderFigures:
    """Count what loaders with a cache of so many images would decode; batches are dealt to them in turn."""
    caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(lanes)]
    decodes = views = images = 0
    for number, batch in enumerate(batches):
        cache = caches[number % lanes]
        images += len({index for index, _, _ in batch})
        for index, _, _ in batch:
            views += 1
            decodes += index not in cache
            cache[index] = None
            cache.move_to_end(index)
            if len(cache) > cached_images:
                cache.popitem(last=False)
    return OrderFigures(decodes / max(1, views), images / max(1, len(batches)))


def pool_size(batch_size: int, cached_images: int) -> int:
    """How many images a lane holds open: half of what the cache holds, but enough for half a batch.

    (The other half of the cache is for images that are done: it does not know which ones are.)
    """
    return max(1, -(-batch_size // 2), min(MAX_POOL, cached_images // 2))


def images_in(cache_bytes: int, sizes: npt.NDArray[np.int64]) -> int:
    """How many decoded images of typical size a cache holds."""
    return int(cache_bytes // max(1, 3 * int(np.median(sizes.prod(axis=1))))) if len(sizes) else 0
