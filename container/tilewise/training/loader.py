"""Records -> batches of training samples, decoded and augmented in worker processes."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tilewise.augment.sample import augment_sample
from tilewise.augment.window import random_window
from tilewise.data.channel import Split
from tilewise.data.decode import DecodeError, decode_image
from tilewise.data.records import Record, Records
from tilewise.data.stream import Stream
from tilewise.training.pipe_batches import PipeBatches
from tilewise.views.sample import Sample, make_sample
from tilewise.views.view import Scaling, View

SMALL_SHM = 256 * 1024 * 1024
"""With less /dev/shm than this the workers send batches through their pipes: what torch shares lies there."""


class TrainingSamples(Dataset[Sample | tuple[str, str]]):
    """One random view of each record; an item is ``(key, reason)`` where the image cannot be decoded.

    Records are asked for by their index, or given as they are where they came through a pipe.
    """

    def __init__(self, records: Records, scaling: Scaling):
        self.records = records
        self.scaling = scaling

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: tuple[int | Record, int]) -> Sample | tuple[str, str]:
        asked, seed = item
        record = asked if isinstance(asked, Record) else self.records[asked]
        try:
            return random_sample(record, self.scaling, np.random.default_rng(seed))
        except (DecodeError, OSError) as error:
            return record.key, str(error)


def random_sample(record: Record, scaling: Scaling, rng: np.random.Generator) -> Sample:
    """Decode a record and look at it through a random view.

    Raises:
        DecodeError: the image is damaged.

    """
    image = decode_image(record.read())
    if image.shape[-2:] != (record.height, record.width):
        raise DecodeError(
            f"it has {image.shape[2]} x {image.shape[1]} pixels now: it was changed during the job"
        )
    window = random_window(record.width, record.height, record.boxes, rng)
    view = View(window, scaling.size_of(window[2] - window[0], window[3] - window[1]))
    boxes, labels, ignored = map(torch.from_numpy, (record.boxes, record.labels, record.ignored))
    return augment_sample(make_sample(image, boxes, labels, ignored, view), rng)


class WholeBatches(Sampler[list[tuple[int, int]]]):
    """Each epoch a new order of all records, filled up to whole batches from its own beginning.

    Every item carries a seed, so that an epoch's augmentation does not depend on the number of workers.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = np.resize(rng.permutation(self.count), len(self) * self.batch_size)
        seeds = rng.integers(2**63, size=len(order))
        items = list(zip(order.tolist(), seeds.tolist(), strict=True))
        for start in range(0, len(items), self.batch_size):
            yield items[start : start + self.batch_size]


Batch = tuple[list[Sample], list[tuple[str, str]]]


def collate(items: list[Sample | tuple[str, str]]) -> Batch:
    """The samples of a batch, and key and reason of the images that could not be decoded."""
    samples = [item for item in items if isinstance(item, Sample)]
    return samples, [item for item in items if not isinstance(item, Sample)]


def _collate_to_bytes(items: list[Sample | tuple[str, str]]) -> bytes:
    return pickle.dumps(collate(items), pickle.HIGHEST_PROTOCOL)


def read_batch(sent: Batch | bytes) -> Batch:
    """A batch as it came from the loader."""
    batch: Batch = pickle.loads(sent) if isinstance(sent, bytes) else sent
    return batch


def default_workers() -> int:
    """Worker processes where the user names no number: one a core, up to eight; none on two cores."""
    cores = len(os.sched_getaffinity(0))
    return 0 if cores <= 2 else min(8, cores - 1)


def make_loader(
    split: Split | Stream, scaling: Scaling, batch_size: int, workers: int, seed: int
) -> DataLoader[Batch | bytes]:
    """A loader of batches for :func:`read_batch`; set ``loader.batch_sampler.epoch`` before each epoch."""
    if isinstance(split, Stream):
        return loader_of(PipeBatches(split, batch_size, seed), Records([]), scaling, workers)
    return loader_of(WholeBatches(len(split.records), batch_size, seed), split.records, scaling, workers)


def loader_of(
    batches: Sampler[Any], records: Records, scaling: Scaling, workers: int
) -> DataLoader[Batch | bytes]:
    """A loader of the batches of a sampler: lists of record, or its index, and seed."""
    piped = workers > 0 and shutil.disk_usage("/dev/shm").total < SMALL_SHM
    return DataLoader(
        TrainingSamples(records, scaling),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=_collate_to_bytes if piped else collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread if workers else None,
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
