"""The order of an epoch's views: near enough to decode an image once, far enough to keep batches mixed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from tilewise.arrays import Int64
from tilewise.data.records import Record
from tilewise.views.view import View

MAX_POOL = 256
"""More images open at a time mix batches hardly better, and each of them is looked at for each batch."""


class Copy(NamedTuple):
    """An image that comes once more, with objects pasted into it.

    Attributes:
        image: its record's index, or the record itself where it came through a pipe.
        seed: of what is pasted, the same for all its views.
        donor: the record that the objects come from, where it came through a pipe; None for the image itself,
            or a bank.

    """

    image: int | Record
    seed: int
    donor: Record | None = None


Item = tuple[int | Copy, View | None, int]
"""A record's index, the view of it to train on (None: the whole image), and the seed of its augmentation.

A negative seed, ``~seed``, leaves out what makes a sample of several.
"""


def index_of(image: int | Copy) -> int:
    """The index of its record."""
    index = image.image if isinstance(image, Copy) else image
    assert isinstance(index, int)
    return index


def spread(
    items: Sequence[Sequence[Item]], batch_size: int, lanes: int, *, pool: int, rng: np.random.Generator
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
    total = sum(map(len, items))
    count, missing = -(-total // batch_size), -total % batch_size
    room = [len(range(lane, count, lanes)) * batch_size for lane in range(lanes)]
    room[(count - 1) % lanes] -= missing
    lines = [_interleave(queue[::-1], batch_size, pool, rng) for queue in _deal(items, room, rng)]
    batches = [list(islice(lines[number % lanes], batch_size)) for number in range(count)]
    everything = [item for batch in batches for item in batch]
    for index, view, _ in islice(cycle(everything), missing):
        batches[-1].append((index, view, int(rng.integers(2**63))))
    # An image's views follow each other, so that a cache of one image serves all that a batch has of it.
    return [sorted(batch, key=lambda item: index_of(item[0])) for batch in batches]


def _deal(
    items: Sequence[Sequence[Item]], room: list[int], rng: np.random.Generator
) -> list[list[list[Item]]]:
    """The images of each lane, whose views are just as many as it has room for.

    Where a lane ends in the middle of an image the next one goes on with it; no other image is split.
    """
    queues: list[list[list[Item]]] = [[] for _ in room]
    lane = 0
    for index in rng.permutation(len(items)).tolist():
        views = [items[index][number] for number in rng.permutation(len(items[index])).tolist()]
        while views:
            while not room[lane]:
                lane += 1
            taken, views = views[: room[lane]], views[room[lane] :]
            room[lane] -= len(taken)
            queues[lane].append(taken)
    return queues


def _interleave(
    queue: list[list[Item]], batch_size: int, pool: int, rng: np.random.Generator
) -> Iterator[Item]:
    open_images: list[list[Item]] = []
    while queue or open_images:
        free_slots = batch_size
        while free_slots and (queue or open_images):
            while queue and len(open_images) < pool:
                open_images.append(queue.pop())
            # Taken as often as small images, large ones, which have more views, would be left for the end.
            views = np.array([len(image) for image in open_images])
            numbers = np.argsort(rng.exponential(size=len(views)) / views)[:free_slots].tolist()
            for number in numbers:
                yield open_images[number].pop()
            free_slots -= len(numbers)
            open_images = [image for image in open_images if image]


@dataclass(frozen=True)
class OrderStatistics:
    """What an order of views costs and is worth.

    Attributes:
        decodes_per_view: how often an image is decoded for each view; 1 when every view needs it anew.
        images_per_batch: different images in a batch, on average.

    """

    decodes_per_view: float
    images_per_batch: float


def measure_order(batches: Sequence[Sequence[Item]], lanes: int, cached_images: int) -> OrderStatistics:
    """Count what loaders with a cache of so many images would decode; batches are dealt to them in turn."""
    caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(lanes)]
    decodes = views = images = 0
    for number, batch in enumerate(batches):
        cache = caches[number % lanes]
        indices = [index_of(image) for image, _, _ in batch]
        images += len({*indices})
        for index in indices:
            views += 1
            decodes += index not in cache
            cache[index] = None
            cache.move_to_end(index)
            if len(cache) > cached_images:
                cache.popitem(last=False)
    return OrderStatistics(decodes / max(1, views), images / max(1, len(batches)))


def pool_size(batch_size: int, cached_images: int) -> int:
    """How many images a lane holds open: half of what the cache holds, or enough for half a batch.

    The other half of the cache is for images that are done: it does not know which ones are. Never more than
    the cache holds: each batch would decode them anew.
    """
    half_a_batch = -(-batch_size // 2)
    return max(1, min(half_a_batch, cached_images), min(MAX_POOL, cached_images // 2))


def decoded_bytes(sizes: Int64) -> int:
    """Bytes of all images, decoded; ``sizes`` are (R, 2) width and height."""
    return 3 * int(sizes.prod(axis=1).sum())


def images_in(cache_bytes: int, sizes: Int64) -> int:
    """How many decoded images of typical size a cache holds."""
    return int(cache_bytes // max(1, 3 * int(np.median(sizes.prod(axis=1))))) if len(sizes) else 0
