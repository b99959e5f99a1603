"""Raw examples in, clean packed Records and their issues out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain

import numpy as np

from tilewise.arrays import Array
from tilewise.boxes import paired_iou
from tilewise.data.annotations import RawExample
from tilewise.data.channel_issues import REPEATED, REVERSED, ChannelIssues
from tilewise.data.decoding.decode import DecodeError, ImageHeader, read_header
from tilewise.data.plausibility import implausible, several_splits
from tilewise.data.records import WHOLE_FILE, Record, Records, open_encoded
from tilewise.errors import UserError
from tilewise.masks import MASKS, masks_in
from tilewise.targets import Targets

log = logging.getLogger(__name__)

MIN_AGREEMENT = 0.5
"""A mask is its object's if the box around it has at least this IoU with the object's box."""

ImageInfo = tuple[ImageHeader, int]
"""An image's header and the number of its bytes."""

_ROUNDING = 0.01  # a fraction may be so much beyond its image
_CHUNK = 256  # examples that a thread takes at once: a hundred thousand single jobs cost more than their work


def make_records(examples: Sequence[RawExample], issues: ChannelIssues) -> Records:
    """Check examples against their images and pack them.

    The images' headers are read, not their pixels. Boxes are clipped to the image; those with nothing left
    are dropped, and those that repeat another one exactly. Images that cannot be used, and images that lost
    all their boxes, are noted in the issues. Boxes that can only be fractions of their image are read so.

    Raises:
        UserError: too many images or boxes cannot be used, none is left, or they are not plausible.

    """
    issues.images = len(examples)
    examples = _as_fractions(examples, issues.channel)
    with ExitStack() as stack:
        pairs = zip(examples, _image_infos(examples, stack), strict=True)
        records = Records(record for pair in pairs if (record := check_example(*pair, issues)))
    issues.check()
    if not len(records):
        issues.check_boxes()
        raise UserError(issues.nothing_left())
    note_implausible(records, issues, splits=several_splits(example.key for example in examples))
    issues.check()
    return records


def note_implausible(records: Records, issues: ChannelIssues, *, splits: str | None = None) -> None:
    """Note what is not plausible in records as a whole, and warn of it; a fault is for :meth:`check`.

    Args:
        records: those of the channel that can be used.
        issues: where it is noted.
        splits: what :func:`.plausibility.several_splits` says of the channel.

    """
    faults, doubts = ([], []) if issues.image_labels else implausible(records, issues.clipped)
    issues.faults, issues.doubts = faults, [*doubts, *([splits] if splits else [])]
    for doubt in issues.doubts:
        log.warning("channel %s: %s", issues.channel, doubt)


def _as_fractions(examples: Sequence[RawExample], channel: str) -> Sequence[RawExample]:
    """Examples whose boxes are given as pixels, but are all fractions of their image: marked as such.

    Some tools write what Azure's labelling tool does, COCO's form with fractions.
    """
    in_pixels = [one.targets.boxes for one in examples if not one.fractions]
    boxes = np.concatenate([*in_pixels, np.zeros((0, 4), np.float32)])
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(boxes) or boxes.max() > 1 + _ROUNDING or boxes.min() < -_ROUNDING:
        return examples
    if (boxes == np.round(boxes)).all():
        return examples
    log.warning(
        "channel %s: all %d boxes lie between 0 and 1: they are read as fractions of their images, although "
        "the format has pixels",
        channel,
        len(boxes),
    )
    return [replace(one, fractions=True) for one in examples]


def check_objects(channel: str, objects: bool) -> None:  # noqa: FBT001  # the value that is checked
    """Refuse to train on a channel where there is nothing to learn.

    Args:
        channel: its name.
        objects: whether any of its images has an object that is not ignored.

    Raises:
        UserError: none has.

    """
    if not objects:
        raise UserError(
            f"channel {channel}: no image has an object to learn (crowds, difficult and ignored ones are "
            "none), or a label where images are classified: give images with annotations"
        )


def _image_infos(examples: Sequence[RawExample], stack: ExitStack) -> Iterable[ImageInfo | str]:
    if len(examples) <= _CHUNK:
        return map(read_image_info, examples)
    chunks = [examples[start : start + _CHUNK] for start in range(0, len(examples), _CHUNK)]
    pool = stack.enter_context(ThreadPoolExecutor(8))
    return chain.from_iterable(pool.map(_read_image_infos, chunks))


def _read_image_infos(examples: Sequence[RawExample]) -> list[ImageInfo | str]:
    return [read_image_info(example) for example in examples]


def read_image_info(example: RawExample) -> ImageInfo | str:
    """Look at an example's image, or say why it cannot be used."""
    if example.problem or example.path is None:
        return example.problem or "its image file is not in the channel"
    try:
        with open_encoded(example.path, example.offset, example.encoded) as file:
            alone = example.offset == WHOLE_FILE and example.encoded is None
            header = read_header(file, by_parts=alone)
            return header, file.seek(0, os.SEEK_END)
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    except DecodeError as error:
        return str(error)


def check_example(example: RawExample, info: ImageInfo | str, issues: ChannelIssues) -> Record | None:
    """Check an example against its image; None, and a note in the issues, where it cannot be used.

    Boxes are clipped to the image; those with nothing left are dropped, and those that repeat another one.
    """
    issues.boxes += len(example.targets) + len(example.unread)
    if isinstance(info, str):
        issues.note_left_out(example.key, info)
        return None
    header, length = info
    if example.size is not None and example.size != (header.width, header.height):
        issues.note_left_out(
            example.key,
            f"its annotation says {example.size[0]} x {example.size[1]} pixels, but the image "
            f"{'(turned upright as its EXIF says) ' if header.orientation != 1 else ''}"
            f"has {header.width} x {header.height}",
        )
        return None
    assert example.path is not None
    targets, dropped = _clean(example, header, issues)
    if dropped and not len(targets):
        # it shows objects, wherever they are: as an image without any it would teach that they are background
        issues.note_left_out(example.key, f"none of its boxes can be used: {dropped[0]}")
        return None
    issues.note_remarks(example.key, header)
    return Record(
        key=example.key,
        path=example.path,
        width=header.width,
        height=header.height,
        targets=targets,
        offset=example.offset,
        length=length,
        encoded=example.encoded,
    )


def _clean(
    example: RawExample, header: ImageHeader, issues: ChannelIssues
) -> tuple[Targets[Array], Sequence[str]]:
    """Targets in pixels, with boxes clipped to the image, and why some of the boxes are gone."""
    targets = _in_pixels(example, header)
    boxes, sides = targets.boxes, np.asarray((header.width, header.height) * 2, np.float32)
    starts, ends = boxes[:, :2], boxes[:, 2:]
    dropped = list(example.unread)
    if not ((starts >= 0).all() and (ends <= sides[:2]).all() and (starts < ends).all()):
        finite = np.isfinite(boxes).all(axis=1)
        clipped = np.clip(np.nan_to_num(boxes), 0, sides)
        usable = finite & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
        # Half a pixel beyond the border is rounding, not worth a line in the log.
        issues.clipped += int((usable & (np.abs(clipped - boxes) > 0.5).any(axis=1)).sum())
        dropped += [_fault(box) for box in boxes[~usable].tolist()]
        targets = replace(targets, boxes=clipped).select(usable)
    targets = _with_checked_masks(targets, example, header, issues)
    for reason in dropped:
        issues.note_dropped(example.key, reason)
    return _without_repeated(targets, example.key, issues), dropped


def _with_checked_masks(
    targets: Targets[Array], example: RawExample, header: ImageHeader, issues: ChannelIssues
) -> Targets[Array]:
    """With masks cut at the image's border, and without those that cannot be their object's."""
    masks = masks_in(targets.fields)
    if masks is None:
        return targets
    width, height = header.width, header.height
    known, size, around = masks.known, np.asarray((width, height), np.float32), masks.boxes
    issues.masks += int(known.sum()) + len(example.unread_masks)
    inside = np.clip(np.nan_to_num(around), 0, np.tile(size, 2))
    frame_differs = np.isfinite(masks.limits).all(axis=1) & (masks.limits != size).any(axis=1)
    reasons = {
        f"is not of an image of {width} x {height} pixels, as this one is": frame_differs,
        "has a point that is not finite": ~np.isfinite(around).all(axis=1),
        "is empty": (around[:, 2:] <= around[:, :2]).any(axis=1)
        | masks.without_a_pixel(size=(width, height)),
        "lies outside the image": (inside[:, 2:] <= inside[:, :2]).any(axis=1),
        "does not agree with it": paired_iou(inside, targets.boxes) < MIN_AGREEMENT,
    }
    bad = known & np.any(list(reasons.values()), axis=0)
    # those of boxes that are cut have been counted; half a pixel is rounding
    boxes_inside = ((targets.boxes[:, :2] > 0) & (targets.boxes[:, 2:] < size)).all(axis=1)
    issues.clipped += int((known & ~bad & boxes_inside & (np.abs(inside - around) > 0.5).any(axis=1)).sum())
    for index in np.flatnonzero(bad).tolist():
        reason = next(reason for reason, applies in reasons.items() if applies[index])
        place = f": it lies within {_corners(around[index].tolist())}" if reason.startswith("does") else ""
        issues.note_mask(
            example.key, f"the mask of {_corners(targets.boxes[index].tolist())} {reason}{place}"
        )
    for reason in example.unread_masks:
        issues.note_mask(example.key, reason)
    framed = (masks.without(bad) if bad.any() else masks).crop((0, 0, width, height), (width, height))
    beyond = known & ~bad & (inside != around).any(axis=1)
    return replace(
        targets, fields={**targets.fields, MASKS: framed.cut_off(beyond) if beyond.any() else framed}
    )


def _in_pixels(example: RawExample, header: ImageHeader) -> Targets[Array]:
    if not example.fractions:
        return example.targets
    size = header.width, header.height
    fields = {name: each.crop((0, 0, 1, 1), size) for name, each in example.targets.fields.items()}
    boxes = example.targets.boxes * np.asarray((*size, *size), np.float32)
    return replace(example.targets, boxes=boxes, fields=fields)


def _without_repeated(targets: Targets[Array], key: str, issues: ChannelIssues) -> Targets[Array]:
    """Without the objects that have box, label and mask of an earlier one: they would count twice.

    One without a mask is the same as one with. Those that are ignored do not count at all.
    """
    content = np.ascontiguousarray(targets.boxes).tobytes()
    if len({content[at : at + 16] for at in range(0, len(content), 16)}) == len(targets):
        return targets  # of a million images hardly one goes on from here
    rows = [(*box, label) for box, label in zip(targets.boxes.tolist(), targets.labels.tolist(), strict=True)]
    masks = masks_in(targets.fields)
    first: dict[tuple[float, ...], set[bytes]] = {}
    kept = []
    for index, (row, ignored) in enumerate(zip(rows, targets.ignored.tolist(), strict=True)):
        if ignored:
            kept.append(index)
            continue
        own, others = b"" if masks is None else masks.content(index), first.setdefault(row, set())
        if others and (own in others or not own or b"" in others):
            issues.repeated += 1
            issues.note_dropped(key, f"{_corners(row[:4])} {REPEATED}")
        else:
            kept.append(index)
        others.add(own)
    return targets.select(np.asarray(kept, np.int64))


def _fault(box: Sequence[float]) -> str:
    x0, y0, x1, y1 = box
    if not np.isfinite(box).all():
        return f"{_corners(box)} is not finite"
    if x1 < x0 or y1 < y0:
        return f"{_corners(box)} {REVERSED}"
    return f"{_corners(box)} {'has no area' if x1 <= x0 or y1 <= y0 else 'lies outside the image'}"


def _corners(box: Sequence[float]) -> str:
    x0, y0, x1, y1 = box
    return f"the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
