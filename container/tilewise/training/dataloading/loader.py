"""Records -> batches of training samples, decoded and augmented in worker processes."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from tilewise.arrays import Float64
from tilewise.augment.augmentations import Augmentations, make_augmentations
from tilewise.augment.copy_paste import CopyPaste
from tilewise.data.records import Records
from tilewise.data.shard import Shard
from tilewise.data.source import PipedRecords, RecordSource
from tilewise.machine import available_cores, memory_limit
from tilewise.training.dataloading.batch import Batch
from tilewise.training.dataloading.batch_server import BatchClient, BatchServer
from tilewise.training.dataloading.copies import Copies
from tilewise.training.dataloading.dataset import TrainingDataset
from tilewise.training.dataloading.pipe_sampler import PipeItem, PipeSampler, ReceivedSampler
from tilewise.training.dataloading.samplers import ImageSampler, PlainLater, ShardSampler
from tilewise.training.dataloading.view_order import (
    Item,
    decoded_bytes,
    images_in,
    measure_order,
    pool_size,
)
from tilewise.training.dataloading.view_sampler import ViewPlanner, ViewSampler, one_view
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.sample import MIN_VISIBILITY, Sample
from tilewise.views.view import Scaling, whole_image

log = logging.getLogger(__name__)

SMALL_SHM = 256 * 1024 * 1024
"""With less /dev/shm than this the workers send batches through their pipes: what torch shares lies there."""

CACHE_SHARE = 0.25
"""Of the memory, for decoded images, if epochs need them again: those of all loaders of a host."""


def collate(items: list[Sample | tuple[str, str]]) -> Batch:
    """A batch of samples, and of key and reason of the images that could not be decoded."""
    samples = [item for item in items if isinstance(item, Sample)]
    return Batch.of(samples, (item for item in items if not isinstance(item, Sample)))


def _collate_to_bytes(items: list[Sample | tuple[str, str]]) -> bytes:
    return pickle.dumps(collate(items), pickle.HIGHEST_PROTOCOL)


def read_batch(sent: Batch | bytes) -> Batch:
    """A batch as it came from the loader."""
    return pickle.loads(sent) if isinstance(sent, bytes) else sent


def default_workers(processes: int = 1, cores: int | None = None) -> int:
    """Worker processes where the user names no number: one a core, up to 16; none on two cores.

    Args:
        processes: that train on this host, and share its cores.
        cores: of this host; None for those that the container may use.

    """
    cores = (cores or available_cores()) // processes
    return 0 if cores <= 2 else min(16, cores - 1)


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What a job chooses for its batches.

    Attributes:
        scaling: of views of whole images.
        batch_size: views in a batch of this process.
        workers: processes that decode; 0: this one.
        seed: of order and augmentation.
        min_visibility: see :func:`make_sample`.
        factors: with a planner, that the size of a batch's views is multiplied by; one is drawn for each.
        random_windows: whether views of whole images and of tiles are varied; those of a pyramid never are.
        rendering: of the images.
        augmentations: what varies views beside their windows, mirroring and colours.
        plain_from: the epoch from which on no view is made of several; None for never.
        pinned: whether batches come in pinned memory, for a GPU.
        memory: bytes of this host, of which decoded images take a part; None for its limit.
        small_shm: with less shared memory than these bytes, batches come through pipes.

    """

    scaling: Scaling
    batch_size: int
    workers: int = 0
    seed: int = 0
    min_visibility: float = MIN_VISIBILITY
    factors: Sequence[float] = (1.0,)
    random_windows: bool = True
    rendering: Rendering = AS_STORED
    augmentations: Augmentations = field(default_factory=Augmentations)
    plain_from: int | None = None
    pinned: bool = False
    memory: int | None = None
    small_shm: int = SMALL_SHM


def make_loader(
    source: RecordSource,
    config: LoaderConfig,
    *,
    planner: ViewPlanner | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
    repeats: Float64 | None = None,
    copy_paste: CopyPaste | None = None,
) -> DataLoader[Batch | bytes]:
    """A loader of batches for :func:`read_batch`; set ``loader.batch_sampler.epoch`` before each epoch.

    Args:
        source: the training data, files or a pipe; a pipe's images are each seen through one view a pass.
        config: what the job chooses.
        planner: draws the views of an epoch; None for each whole image once.
        distributed: the processes that train together: each takes as many batches in an epoch.
        repeats: how often an epoch shows each image of files, where there is no planner; None for once.
        copy_paste: how images come once more with objects pasted; None where none do.

    """
    varied = config.random_windows and not (planner and planner.views in ("snip", "sniper"))
    epoch = source.batches(_BatchMaker(config, planner, distributed, repeats, copy_paste))
    augmentations = make_augmentations(config.scaling, random_windows=varied, more=config.augmentations)
    samples = TrainingDataset(
        epoch.records,
        config.scaling,
        augmentations,
        min_visibility=config.min_visibility,
        cache_bytes=epoch.cache_bytes,
        rendering=config.rendering,
        copy_paste=copy_paste,
    )
    batches = epoch.batches
    if config.plain_from is not None and config.augmentations.mixes:
        batches = PlainLater(batches, config.plain_from)
    return loader_of(batches, samples, config)


@dataclass(frozen=True)
class _Batches:
    """An epoch's batches, and what the loader processes need for them.

    Attributes:
        batches: of items for a :class:`TrainingDataset`.
        records: that items name by their index.
        cache_bytes: decoded images that each loader process keeps.

    """

    batches: Sampler[list[Item]] | Sampler[list[PipeItem]]
    records: Records
    cache_bytes: int = 0


@dataclass(frozen=True)
class _BatchMaker:
    """The batches of a kind of source; see :func:`make_loader` for the attributes."""

    config: LoaderConfig
    planner: ViewPlanner | None
    distributed: DistributedContext
    repeats: Float64 | None
    copy_paste: CopyPaste | None

    def from_files(self, records: Records, shard: Shard) -> _Batches:
        """All processes draw the same batches, and each takes those of its shard."""
        config = self.config
        cache = _cache_bytes(config, self.distributed)
        once = self.planner is None or self.planner.views == "whole"
        if once and not _stay_decoded(records, config.scaling, cache):
            cache = 0
        copies = Copies.of(self.copy_paste, records) if self.copy_paste else None
        if self.planner is None:
            images = ImageSampler(
                len(records), config.batch_size, config.seed, repeats=self.repeats, copies=copies
            )
            return _Batches(_dealt(images, shard, self.distributed), records, cache)
        # All processes draw the same order, also where their hosts have other numbers of cores.
        lanes = shard.count * self.distributed.all_reduce_min(max(1, config.workers))
        of_several = 0 if once else cache
        views = _view_batches(
            records, self.planner, config, lanes=lanes, cache_bytes=of_several, copies=copies
        )
        return _Batches(_dealt(views, shard, self.distributed), records, cache)

    def from_pipe(self, stream: PipedRecords) -> _Batches:
        """Read for all processes of this host, and hand the others their batches."""
        draw = partial(one_view, planner=self.planner)
        address = self._address(stream.channel)
        server = BatchServer(address, self.distributed.local_size) if address else None
        batches = PipeSampler(
            stream,
            self.config.batch_size,
            self.config.seed,
            draw=draw,
            factors=self.config.factors,
            batch_server=server,
            any_host_has_more=self.distributed.any_host,
            copy_paste=self.copy_paste,
        )
        return _Batches(batches, Records([]))

    def from_reader(self, channel: str) -> _Batches:
        """The process that reads sends this one its batches.

        A request to stop comes the same way, so that all processes take the same steps.
        """
        address = self._address(channel)
        assert address is not None
        return _Batches(ReceivedSampler(BatchClient(address, self.distributed.local_rank)), Records([]))

    def _address(self, channel: str) -> Path | None:
        """The socket between the processes of this host; None where there is but one."""
        folder = self.distributed.folder
        return folder / f"{channel}.socket" if folder and self.distributed.local_size > 1 else None


def _stay_decoded(records: Records, scaling: Scaling, cache_bytes: int) -> bool:
    """Whether images that an epoch sees once are kept for the next: if all fit.

    But not those so large that they are decoded at a fraction of their size, which is as fast.
    """
    width, height = np.median(records.sizes, axis=0).astype(int).tolist()
    (view,) = whole_image(width, height, scaling)
    return decoded_bytes(records.sizes) <= cache_bytes and view.reduction == 1


def _cache_bytes(config: LoaderConfig, distributed: DistributedContext) -> int:
    """Those of each loader; the same in all processes, since the order of views follows them."""
    memory = config.memory or memory_limit()
    return distributed.all_reduce_min(
        int(CACHE_SHARE * memory) // (max(1, config.workers) * distributed.local_size)
    )


def _dealt(
    batches: ImageSampler | ViewSampler, shard: Shard, distributed: DistributedContext
) -> ShardSampler:
    """The batches of this process: the hosts may have different images, but all take as many steps."""
    return ShardSampler(batches, shard, distributed.all_reduce_max(-(-len(batches) // shard.count)))


def loader_of(
    batches: Sampler[list[Item]] | Sampler[list[PipeItem]],
    samples: TrainingDataset,
    config: LoaderConfig,
) -> DataLoader[Batch | bytes]:
    """A loader of the batches of a sampler."""
    workers = config.workers
    piped = workers > 0 and shutil.disk_usage("/dev/shm").total < config.small_shm
    if piped:
        log.info("/dev/shm is small: the %d loader processes send their batches through pipes", workers)
    return DataLoader(
        samples,  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=_collate_to_bytes if piped else collate,
        num_workers=workers,
        pin_memory=config.pinned,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread if workers else None,
        generator=torch.Generator(),  # an epoch would draw from the one that training draws from
    )


def _view_batches(
    records: Records,
    planner: ViewPlanner,
    config: LoaderConfig,
    *,
    lanes: int,
    cache_bytes: int,
    copies: Copies | None,
) -> ViewSampler:
    cached = max(images_in(cache_bytes, records.sizes), 1 if cache_bytes else 0)
    batches = ViewSampler(
        records,
        planner,
        config.batch_size,
        lanes=lanes,
        pool=pool_size(config.batch_size, cached),
        factors=config.factors,
        seed=config.seed,
        copies=copies,
    )
    figures = measure_order(batches.first, lanes, cached)
    log.info(
        "an epoch has %d views of %d images; %.2f decodes a view, %.1f different images in a batch of %d",
        len(batches) * config.batch_size,
        len(records) + len(copies or ()),
        figures.decodes_per_view,
        figures.images_per_batch,
        config.batch_size,
    )
    return batches


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
