"""From a job's hyperparameters and its training data to the objects that are pasted."""

from __future__ import annotations

import logging

import numpy as np

from tilewise.arrays import Array, Float64, Int64
from tilewise.augment.copy_paste import FEATHERS, SMALL, CopyPaste, PatchBank, extents, pasteable
from tilewise.boxes import object_size
from tilewise.data.decoding.decode import DecodeError
from tilewise.data.source import RecordSource
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.targets import Targets
from tilewise.training.dataloading.dataset import decode_record
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import View

log = logging.getLogger(__name__)

FEW = 0.1
"""Where a smaller share of the objects is small, ``copy_paste_max_size=auto`` takes the lower third."""

BANK_BYTES = 64 << 20
BANK_IMAGES = 1000
"""The bank holds patches of so many bytes, of so many images at most."""


def make_copy_paste(
    hp: Hyperparameters,
    source: RecordSource,
    distributed: DistributedContext = SINGLE_PROCESS,
    *,
    classes: int,
    rendering: Rendering = AS_STORED,
) -> CopyPaste | None:
    """What a job pastes, where it wants that; all processes must call it.

    Args:
        hp: the job's.
        source: the training data. Where it is a pipe, objects of other images come with each image.
        distributed: the processes that train together; the leader's data decide.
        classes: so many there are.
        rendering: of the images.

    Raises:
        UserError: there are no small objects.

    """
    if not hp.copy_paste:
        return None
    targets = source.sample.targets.select(~source.sample.targets.ignored)
    sizes = object_size(targets.boxes)
    smallest = distributed.broadcast((_max_size(hp, sizes), float(sizes.min(initial=np.inf))))
    max_size = smallest[0]
    if not distributed.any(bool((sizes < max_size).any())):
        raise UserError(
            f"copy_paste=1 pastes objects below {max_size:g} px (√area in pixels of the image), and the "
            f"smallest of the training images has {smallest[1]:.0f} px: give copy_paste_max_size=auto for "
            "the smallest third, or a larger number, or leave copy_paste out"
        )
    bank = _bank(source, max_size, hp.seed, rendering) if hp.copy_paste_source == "any" else None
    weights = None
    if hp.copy_paste_balance:
        candidates = bank.targets.labels if bank else targets.labels[sizes < max_size]
        weights = distributed.broadcast(_class_weights(candidates, classes))
    return CopyPaste(
        hp.copy_paste_repeats,
        hp.copy_paste_times,
        max_size,
        of_others=hp.copy_paste_source == "any",
        class_weights=weights,
        bank=bank,
    )


def _max_size(hp: Hyperparameters, sizes: Float64) -> float:
    if hp.copy_paste_max_size != "auto":
        return float(hp.copy_paste_max_size)
    small = float((sizes < SMALL).mean()) if len(sizes) else 1.0
    if small >= FEW:
        log.info("copy_paste_max_size=auto: 32 px, below which %.0f %% of the objects are", 100 * small)
        return SMALL
    third = float(np.quantile(sizes, 1 / 3))
    log.info(
        "copy_paste_max_size=auto: %.0f px, the smallest third of the objects: only %.1f %% are below 32 px",
        third,
        100 * small,
    )
    return third


def _class_weights(labels: Int64, classes: int) -> Float64:
    """(C,) how often an object of each class is drawn, given those of all candidates: all classes alike.

    A class that is not among them, as a pipe's first images may lack one, counts as the rarest that is.
    """
    counts = np.bincount(labels, minlength=classes)
    rarest = counts[counts > 0].min(initial=len(labels) or 1)
    return np.asarray(1 / np.where(counts > 0, counts, rarest), np.float64)


def _bank(source: RecordSource, max_size: float, seed: int, rendering: Rendering) -> PatchBank | None:
    """Small objects of the training images, drawn from all of them; None where these come through a pipe."""
    if not source.supports_random_access:
        return None
    records = source.sample
    patches: list[Array] = []
    parts: list[Targets[Array]] = []
    room, images = BANK_BYTES, 0
    for index in np.random.default_rng(seed).permutation(len(records)).tolist():
        record = records[index]
        chosen = record.targets.select(pasteable(record.targets, max_size))
        if not len(chosen) or room <= 0 or images == BANK_IMAGES:
            continue
        images += 1
        try:
            image = decode_record(record, 1, rendering)
        except (DecodeError, OSError) as error:
            source.issues.leave_out(record.key, str(error))
            continue
        for number, box in enumerate(extents(chosen)):
            low = (np.floor(box[:2]).astype(int) - max(FEATHERS)).clip(min=0)
            high = (np.ceil(box[2:]).astype(int) + max(FEATHERS)).clip(max=[record.width, record.height])
            window = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
            view = View(window, (window[2] - window[0], window[3] - window[1]))
            part = chosen.select(slice(number, number + 1)).crop(window, view.size)
            if not len(part):  # less than a pixel is left of a side
                continue
            patches.append(np.asarray(view.pixels_from_image(*image.seen_by(view))))
            parts.append(part)
            room -= patches[-1].nbytes
    if not patches:
        return None
    bank = PatchBank(patches, Targets.cat(parts))
    log.info(
        "copy_paste_source=any: a bank of %d objects of %d images, %.1f MB, mean √area %.0f px",
        len(patches),
        images,
        (BANK_BYTES - room) / 2**20,
        object_size(bank.targets.boxes).mean(),
    )
    return bank
