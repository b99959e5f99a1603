"""A channel whose images have objects, as one whose images have classes."""

from __future__ import annotations

import atexit
import errno
import logging
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.crops import crop_around
from tilewise.data.decoding.decode import DecodedImage, DecodeError, decode_reduced
from tilewise.data.image_labels import whole_image_targets
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.machine import available_cores

log = logging.getLogger(__name__)


def classes_of_objects(
    records: Records, issues: ChannelIssues, classes: tuple[str, ...], *, several: bool
) -> Records:
    """Images that have the classes of their objects; ignored ones do not count.

    Objects keep their boxes, so that a view of an image has the classes of those that it shows. Where an
    image has one class, those without objects are left aside.

    Raises:
        UserError: where an image has one class, too many have objects of several.

    """
    kept, without = [], 0
    for record in records:
        targets = record.targets.select(~record.targets.ignored)
        own = np.unique(targets.labels).tolist()
        if not several and len(own) > 1:
            names = ", ".join(classes[label] for label in own)
            issues.note_left_out(
                record.key,
                f"it has objects of {len(own)} classes ({names}), and an image has one class here: give "
                "task=multilabel_classification, or objects_as=crops",
            )
        elif own or several:
            kept.append(replace(record, targets=targets))
        else:
            without += 1
    if without:
        log.info(
            "channel %s: %d images without objects have no class and are left aside", issues.channel, without
        )
    issues.check()
    return _any_of(kept, issues)


def cut_objects(records: Records, issues: ChannelIssues) -> Records:
    """Each object as an image with its class, in a temporary folder; ignored ones are left aside.

    Raises:
        UserError: too many images are damaged, or the folder's disk is full.

    """
    folder = Path(tempfile.mkdtemp(prefix=f"tilewise-{issues.channel}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    numbered = enumerate(record for record in records if not record.targets.ignored.all())
    cut: list[Record] = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for found in pool.map(lambda pair: _cut(folder, *pair), numbered):
            if isinstance(found, list):
                cut += found
            else:
                issues.leave_out(*found)
    log.info("channel %s: %d objects are cut out of %d images", issues.channel, len(cut), len(records))
    return _any_of(cut, issues)


def _cut(folder: Path, number: int, record: Record) -> list[Record] | tuple[str, str]:
    """The objects of an image; or its key, and why there are none."""
    try:
        image = decode_reduced(record.source, lambda width, height: 1)
        return list(_objects(folder, number, record, image))
    except DecodeError as error:
        return record.key, str(error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return record.key, str(error)
        raise UserError(
            f"objects_as=crops: the objects that are cut out do not fit into {folder.parent}: give the job a "
            "larger volume (VolumeSizeInGB), or set TMPDIR to a larger one"
        ) from None


def _objects(folder: Path, number: int, record: Record, image: DecodedImage) -> Iterator[Record]:
    targets = record.targets
    for index in np.flatnonzero(~targets.ignored).tolist():
        pixels = crop_around(image, targets.boxes[index])
        path = folder / str(number) / f"{record.path.stem}-{index + 1}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, compress_level=1)
        height, width = pixels.shape[:2]
        label = whole_image_targets([int(targets.labels[index])])
        boxes = label.boxes * np.array([width, height, width, height], np.float32)
        yield Record(
            key=f"{record.key}, object {index + 1}",
            path=path,
            width=width,
            height=height,
            targets=replace(label, boxes=boxes),
            length=path.stat().st_size,
        )


def _any_of(records: list[Record], issues: ChannelIssues) -> Records:
    if not records:
        raise UserError(f"channel {issues.channel}: no image has an object that gives it a class")
    return Records(records)
