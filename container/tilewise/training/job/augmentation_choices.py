"""What of the augmentation a job leaves to its data: ``random_windows=auto`` and ``colour_changes=auto``."""

from __future__ import annotations

import logging

import numpy as np

from tilewise.arrays import Array
from tilewise.data.decoding.decode import DecodeError, decode_reduced
from tilewise.data.records import Record, Records
from tilewise.hyperparameters import Hyperparameters
from tilewise.views.rendering import Rendering

log = logging.getLogger(__name__)

LONG, MANY = 14, 4500
"""From so many epochs and views on random windows of whole images are worth more than they cost.

Measured (benchmarks/README.md, "When random windows pay"): they cost AP after 8 epochs with 1,600 views, 34
with 2,900 and 19 with 3,900, and gain as much after 24 with 4,900. Those of tiles vary less and gain at once.
"""

LOOKED_AT = 16
"""So many images, at regular distances, say whether a set is grey."""

TOLERANCE = 4
"""By so much red, green and blue of a grey image differ, which JPEG has coded as colours."""

_REDUCED = 8
_MOST_PIXELS = 25_000_000
"""Larger images are not looked at: to decode them would hold the job up."""


def with_random_windows(hp: Hyperparameters, images: int, *, tiled: bool) -> Hyperparameters:
    """The hyperparameters with 0 or 1 for ``random_windows=auto``; the log says which.

    Args:
        hp: the job's, with its epochs.
        images: of an epoch.
        tiled: whether views are of tiles, too.

    """
    if hp.random_windows != "auto":
        return hp
    if tiled:
        varied, why = True, "tiles are varied little"
    elif hp.training_crop_size is not None:
        varied, why = True, "crops are cut at random"
    else:
        epochs, views = hp.number_of_epochs, hp.number_of_epochs * images
        varied = epochs >= LONG and views >= MANY
        why = f"{epochs} epochs with {views:,} views are {'enough' if varied else 'few'}"
    log.info("random_windows=auto: %d, since %s", varied, why)
    return hp.model_copy(update={"random_windows": varied})


def with_colour_changes(hp: Hyperparameters, records: Records, rendering: Rendering) -> Hyperparameters:
    """The hyperparameters with 0 or 1 for ``colour_changes=auto``, by the images; the log says which.

    Args:
        hp: the job's.
        records: the training images, or the first of them; those of a pipe are taken for coloured.
        rendering: how their pixels become colours.

    """
    if hp.colour_changes != "auto":
        return hp
    chosen = [records[index] for index in range(0, len(records), max(1, len(records) // LOOKED_AT))]
    usable = [each for each in chosen if each.path.is_file() and each.width * each.height <= _MOST_PIXELS]
    grey = [_is_grey(record, rendering) for record in usable]
    known = [each for each in grey if each is not None]
    coloured = not known or not all(known)
    if known:
        log.info("colour_changes=auto: %d, since %d of %d images are grey", coloured, sum(known), len(known))
    else:
        log.info("colour_changes=auto: 1, since no image could be looked at beforehand")
    return hp.model_copy(update={"colour_changes": coloured})


def _is_grey(record: Record, rendering: Rendering) -> bool | None:
    """None where the image cannot be decoded, which others report."""
    try:
        image = decode_reduced(record.source, lambda *_: _REDUCED, rendering=rendering)
    except (DecodeError, OSError):
        return None
    return is_grey(image.pixels)


def is_grey(pixels_3HW: Array) -> bool:
    """Whether the three colours of each pixel are nearly the same."""
    return bool(np.ptp(pixels_3HW.astype(np.int16), axis=0).max(initial=0) <= TOLERANCE)
