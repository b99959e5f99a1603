"""What the readers of every format share: raw examples in, clean packed Records and their issues out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilewise.arrays import Array, Float32, Int64
from tilewise.boxes import paired_iou
from tilewise.data.decode import DecodeError, ImageHeader, read_header
from tilewise.data.folder import Folder
from tilewise.data.image_labels import ONE_LABEL, SEVERAL_LABELS
from tilewise.data.plausibility import implausible
from tilewise.data.records import WHOLE_FILE, Record, Records, open_encoded
from tilewise.errors import UserError
from tilewise.masks import MASKS, Masks, masks_in
from tilewise.targets import Targets
from tilewise.views.rendering import AS_STORED, Rendering

log = logging.getLogger(__name__)

MAX_LEFT_OUT = 0.05
"""A channel may lose this share of its images, or of its boxes, to damage before the job stops."""

MAX_FRACTION = 2
"""A careless box may reach beyond its image, but not that far: then it is in pixels."""

MIN_AGREEMENT = 0.5
"""A mask is its object's if the box around it has at least this IoU with the object's box."""

MAX_NAMED = 5
"""So many images that are missing are named."""

REVERSED, REPEATED = "has no area: it ends before it begins", "repeats another one of its image exactly"
"""Reasons why a box is not used."""

MAX_WARNINGS = 100
"""So many images left out, and so many boxes dropped, are named in the log of a channel."""


@dataclass(frozen=True, slots=True)
class RawExample:
    """One annotated image as a reader found it, not yet checked against the image itself.

    Attributes:
        key: names it in messages.
        path: the image file, or the RecordIO file that holds it; None when the reader could not find it.
        size: (width, height) that the annotation states, or None.
        targets: its ground truth, in pixels, or as fractions of the image's sides.
        problem: why this example cannot be used, "" when it can.
        offset: where the image's record begins in a RecordIO file.
        fractions: whether the targets are in fractions.
        encoded: the image itself, where it came through a pipe.
        unread: why some of its boxes could not be read, each as a message says it.
        unread_masks: why objects have no mask that should have one.

    """

    key: str
    path: Path | None
    size: tuple[int, int] | None
    targets: Targets[Array]
    problem: str = ""
    offset: int = WHOLE_FILE
    fractions: bool = False
    encoded: bytes | None = None
    unread: tuple[str, ...] = ()
    unread_masks: tuple[str, ...] = ()

    def with_labels(self, labels: Int64) -> RawExample:
        """The example with other labels of its objects."""
        return replace(self, targets=replace(self.targets, labels=labels))


@dataclass(frozen=True)
class ParsedChannel:
    """What a reader found in a channel, before its classes are reconciled with those of other channels.

    Attributes:
        examples: one an image, images without objects and unusable ones too.
        classes: the classes' names where labels are indices into them; None where labels are mere numbers.
        names: what some of these numbers are called.
        ids: the numbers that ``classes`` have in the files, ascending, where they have any.
        groups: those of ``classes`` that have no object and seem to stand for a group of others.
        image_files: the first few image files that lie in the channel, for messages.

    """

    examples: list[RawExample]
    classes: tuple[str, ...] | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    ids: tuple[int, ...] = ()
    groups: frozenset[str] = frozenset()
    image_files: tuple[str, ...] = ()

    @cached_property
    def used(self) -> frozenset[int]:
        """The labels that objects have."""
        labels = [example.targets.labels for example in self.examples]
        return frozenset(np.unique(np.concatenate([*labels, np.zeros(0, np.int64)])).tolist())


def with_fields(parsed: ParsedChannel, fields: frozenset[str]) -> ParsedChannel:
    """The channel, where its format has no such fields too: its objects then have no masks."""
    if MASKS not in fields:
        return parsed

    def with_masks(example: RawExample) -> RawExample:
        targets = example.targets
        if MASKS in targets.fields:
            return example
        none = {MASKS: Masks.none(len(targets))}
        return replace(example, targets=replace(targets, fields={**targets.fields, **none}))

    return replace(parsed, examples=[with_masks(example) for example in parsed.examples])


def unusable(key: str, path: Path | None, problem: str) -> RawExample:
    """An image that cannot be used, and why; it has no objects."""
    return RawExample(key, path, None, Targets.none(), problem=problem)


def by_name(examples: Iterable[RawExample], names: Sequence[str]) -> ParsedChannel:
    """Classes in the alphabetical order of their names.

    Args:
        examples: their labels are indices into ``names``.
        names: without duplicates.

    """
    order = sorted(range(len(names)), key=lambda index: names[index])
    new = np.argsort(np.asarray(order, np.int64)).astype(np.int64)
    classes = tuple(names[index] for index in order)
    return ParsedChannel([each.with_labels(new[each.targets.labels]) for each in examples], classes)


@dataclass(frozen=True)
class ChannelSource:
    """A channel's folders.

    Attributes:
        name: the channel's.
        images: its own folder.
        annotations: that of its annotation channel; the same folder where there is none.
        annotation_name: the name of the channel that ``annotations`` belongs to.
        label_attribute: of an augmented manifest, the one to train on, where the job says which.
        fields: the optional fields of the ground truth that are wanted; others are not kept.
        class_ids: see :class:`tilewise.data.image_labels.ImageLabels`.

    """

    name: str
    images: Folder
    annotations: Folder
    annotation_name: str
    label_attribute: str | None = None
    fields: frozenset[str] = frozenset()
    class_ids: bool = False

    @property
    def masks(self) -> bool:
        """Whether masks are wanted."""
        return MASKS in self.fields

    @property
    def image_labels(self) -> bool:
        """Whether labels of whole images are wanted, not objects."""
        return ONE_LABEL in self.fields or self.several_labels

    @property
    def several_labels(self) -> bool:
        """Whether an image has any number of these."""
        return SEVERAL_LABELS in self.fields


@dataclass(frozen=True)
class DetectedFormat:
    """A format that a channel holds.

    Attributes:
        format: its name, for messages.
        where: by what it was recognised: files' names, for messages.
        read: reads it; raises UserError where the files contradict themselves.

    """

    format: str
    where: str
    read: Callable[[], ParsedChannel]


@dataclass
class ChannelIssues:
    """What became of a channel's images and boxes.

    Attributes:
        channel: its name.
        images: how many the annotations name, or have come through a pipe so far.
        expected: how many there will be, where they are still coming; 0 when they are all there.
        left_out: key -> reason, for the images that cannot be used.
        boxes: how many the annotations have, or have come through a pipe so far.
        clipped: boxes that reached beyond their image and were cut at its border.
        dropped: record and reason of each box that is not used.
        repeated: how many of these only repeat another one of their image.
        masks: how many objects have a mask in the annotations, where masks are wanted.
        masks_dropped: record and reason of each mask that is not used; its object keeps its box.
        doubts: what is not plausible in the channel as a whole.
        faults: the same, where it is so bad that nothing could be learnt.
        image_files: see :class:`ParsedChannel`.
        rendering: of the channel's images.
        remarks: what of an image is left aside, and has been said.
        image_labels: whether its objects are labels of whole images, all at the same place.

    """

    channel: str
    images: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    clipped: int = 0
    dropped: list[str] = field(default_factory=list)
    expected: int = 0
    boxes: int = 0
    repeated: int = 0
    doubts: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    image_files: tuple[str, ...] = ()
    rendering: Rendering = AS_STORED
    remarks: set[str] = field(default_factory=set)
    masks: int = 0
    masks_dropped: list[str] = field(default_factory=list)
    image_labels: bool = False

    def note_remarks(self, key: str, header: ImageHeader) -> None:
        """Say what of an image is left aside, once for all images of its kind."""
        for remark in header.remarks(self.rendering):
            if remark not in self.remarks:
                self.remarks.add(remark)
                log.info("channel %s: %s has %s; so may others", self.channel, key, remark)

    def leave_out(self, key: str, reason: str) -> None:
        """Note an image that cannot be used, and stop the job when there are too many.

        Raises:
            UserError: more than :data:`MAX_LEFT_OUT` of the channel's images cannot be used.

        """
        self.note_left_out(key, reason)
        self.check()

    def note_left_out(self, key: str, reason: str) -> None:
        """Note an image that cannot be used."""
        if key not in self.left_out:
            self.left_out[key] = reason
            self._warn(len(self.left_out), f"{key} is left out: {reason}")

    def note_dropped(self, key: str, reason: str) -> None:
        """Note a box that is not used."""
        self.dropped.append(f"{key}: {reason}")
        self._warn(len(self.dropped), f"{key}: {reason}; it is dropped")

    def note_mask(self, key: str, reason: str) -> None:
        """Note a mask that is not used."""
        self.masks_dropped.append(f"{key}: {reason}")
        self._warn(len(self.masks_dropped), f"{key}: {reason}; its object keeps its box, without a mask")

    def _warn(self, count: int, message: str) -> None:
        if count <= MAX_WARNINGS:
            more = "; further ones are only counted" if count == MAX_WARNINGS else ""
            log.warning("channel %s: %s%s", self.channel, message, more)

    def begin_pass(self, expected: int) -> None:
        """Start counting again, for a pipe's next pass."""
        self.images, self.clipped, self.expected = 0, 0, expected
        self.boxes = self.repeated = self.masks = 0
        self.left_out.clear()
        self.dropped.clear()
        self.masks_dropped.clear()

    def finish_pass(self) -> None:
        """Note that no more images come.

        Raises:
            UserError: as :meth:`check`, or no image can be used.

        """
        self.expected = 0
        self.check()
        if self.left_out and len(self.left_out) == self.images:
            raise UserError(self.nothing_left())

    def check(self) -> None:
        """Stop the job when too much cannot be used.

        Raises:
            UserError: more than :data:`MAX_LEFT_OUT` of the channel's images or, where all have been seen, of
                its boxes cannot be used, or there are :attr:`faults`.

        """
        if not self.expected:
            self.check_boxes()
        if len(self.left_out) > MAX_LEFT_OUT * max(self.images, self.expected):
            so_far = " so far" if self.expected else ""
            missing = sum("not in the" in reason for reason in self.left_out.values())
            there = f" (the image files in it are {some(self.image_files, MAX_NAMED)})"
            there = there if self.image_files and missing > len(self.left_out) / 2 else ""
            raise UserError(
                f"channel {self.channel}: {len(self.left_out)} of {self.images} images{so_far} cannot be "
                f"used, more than {MAX_LEFT_OUT:.0%}{there}; fix or remove them, starting with: "
                f"{self._first()}"
            )

    def check_boxes(self) -> None:
        """The part of :meth:`check` that concerns boxes.

        Raises:
            UserError: see there.

        """
        for fault in self.faults:
            raise UserError(f"channel {self.channel}: {fault}")
        unusable = len(self.dropped) - self.repeated
        if unusable > max(1, MAX_LEFT_OUT * self.boxes):  # a single one is an accident
            first = "; ".join(islice((each for each in self.dropped if not each.endswith(REPEATED)), 3))
            reversed_ = sum(REVERSED in each for each in self.dropped) > unusable / 2
            hint = " (are they x, y, width, height, where two corners are expected?)" if reversed_ else ""
            raise UserError(
                f"channel {self.channel}: {unusable} of {self.boxes} boxes cannot be used, more than "
                f"{MAX_LEFT_OUT:.0%}{hint}; fix or remove them, starting with: {first}"
            )
        if len(self.masks_dropped) > max(1, MAX_LEFT_OUT * self.masks):
            raise UserError(
                f"channel {self.channel}: {len(self.masks_dropped)} of {self.masks} masks cannot be used, "
                f"more than {MAX_LEFT_OUT:.0%}; fix or remove them, starting with: "
                f"{'; '.join(self.masks_dropped[:3])}"
            )

    def nothing_left(self) -> str:
        """That no image of the channel can be used, and why."""
        more = f": {self._first(MAX_NAMED)}" if self.left_out else ""
        return f"channel {self.channel} holds no image that can be used{more}"

    def _first(self, count: int = 3) -> str:
        return "; ".join(f"{key}: {reason}" for key, reason in islice(self.left_out.items(), count))


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
    note_implausible(records, issues)
    issues.check()
    return records


def note_implausible(records: Records, issues: ChannelIssues) -> None:
    """Note what is not plausible in records as a whole, and warn of it; a fault is for :meth:`check`."""
    if issues.image_labels:
        return
    issues.faults, issues.doubts = implausible(records, issues.clipped)
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
            "none): give images with annotated objects"
        )


_ROUNDING = 0.01  # a fraction may be so much beyond its image
_CHUNK = 256  # examples that a thread takes at once: a hundred thousand single jobs cost more than their work

ImageInfo = tuple[ImageHeader, int]
"""An image's header and the number of its bytes."""


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
    # those of boxes that are cut have been counted; half a pixel is rounding
    boxes_inside = ((targets.boxes[:, :2] > 0) & (targets.boxes[:, 2:] < size)).all(axis=1)
    issues.clipped += int((known & boxes_inside & (np.abs(inside - around) > 0.5).any(axis=1)).sum())
    frame_differs = np.isfinite(masks.limits).all(axis=1) & (masks.limits != size).any(axis=1)
    reasons = {
        f"is not of an image of {width} x {height} pixels, as this one is": frame_differs,
        "has a point that is not finite": ~np.isfinite(around).all(axis=1),
        "is empty": (around[:, 2:] <= around[:, :2]).any(axis=1),
        "lies outside the image": (inside[:, 2:] <= inside[:, :2]).any(axis=1),
        "does not agree with it": paired_iou(inside, targets.boxes) < MIN_AGREEMENT,
    }
    bad = known & np.any(list(reasons.values()), axis=0)
    for index in np.flatnonzero(bad).tolist():
        reason = next(reason for reason, applies in reasons.items() if applies[index])
        place = f": it lies within {_corners(around[index].tolist())}" if reason.startswith("does") else ""
        issues.note_mask(
            example.key, f"the mask of {_corners(targets.boxes[index].tolist())} {reason}{place}"
        )
    for reason in example.unread_masks:
        issues.note_mask(example.key, reason)
    framed = (masks.without(bad) if bad.any() else masks).crop((0, 0, width, height), (width, height))
    return replace(targets, fields={**targets.fields, MASKS: framed})


def _in_pixels(example: RawExample, header: ImageHeader) -> Targets[Array]:
    if not example.fractions:
        return example.targets
    size = header.width, header.height
    fields = {name: each.crop((0, 0, 1, 1), size) for name, each in example.targets.fields.items()}
    boxes = example.targets.boxes * np.asarray((*size, *size), np.float32)
    return replace(example.targets, boxes=boxes, fields=fields)


def _without_repeated(targets: Targets[Array], key: str, issues: ChannelIssues) -> Targets[Array]:
    """Without the objects that have box and label of an earlier one: they would count twice.

    Those that are ignored do not count at all.
    """
    content = np.ascontiguousarray(targets.boxes).tobytes()
    if len({content[at : at + 16] for at in range(0, len(content), 16)}) == len(targets):
        return targets  # of a million images hardly one goes on from here
    rows = [(*box, label) for box, label in zip(targets.boxes.tolist(), targets.labels.tolist(), strict=True)]
    first: set[tuple[float, ...]] = set()
    kept = []
    for index, (row, ignored) in enumerate(zip(rows, targets.ignored.tolist(), strict=True)):
        if ignored or row not in first:
            kept.append(index)
        else:
            issues.repeated += 1
            issues.note_dropped(key, f"{_corners(row[:4])} {REPEATED}")
        if not ignored:
            first.add(row)
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


def boxes_from_corner_and_size(rows: Sequence[Sequence[float]]) -> Float32:
    """``left, top, width, height`` -> (N, 4) float32 ``xmin, ymin, xmax, ymax``."""
    boxes = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is dropped, and named, later
        boxes[:, 2:] += boxes[:, :2]
        return boxes.astype(np.float32)


def boxes_from_corners(rows: npt.ArrayLike) -> Float32:
    """``xmin, ymin, xmax, ymax`` -> (N, 4) float32."""
    with np.errstate(over="ignore"):  # what is not finite is dropped, and named, later
        return np.asarray(rows, dtype=np.float64).reshape(-1, 4).astype(np.float32)


def check_fractions(boxes: Float32) -> Float32:
    """The same boxes.

    Raises:
        ValueError: some coordinate is in pixels, by its size.

    """
    far = boxes[np.isfinite(boxes) & (np.abs(boxes) > MAX_FRACTION)]
    if len(far):
        raise ValueError(
            f"a box has the coordinate {far[0]:g}, not a fraction of its image's width or height"
        )
    return boxes


def two_for_one_image(examples: Iterable[RawExample]) -> None:
    """Refuse examples that are the same image file; unusable ones do not count.

    Raises:
        UserError: naming the first two.

    """
    first: dict[Path, str] = {}
    for example in examples:
        if example.path is not None and not example.problem:
            key = first.setdefault(example.path, example.key)
            if key is not example.key:
                raise UserError(
                    f"{key} and {example.key} annotate the same image {example.path.name}: keep one"
                )


def some(names: Iterable[str], count: int = 3) -> str:
    """The first few names, for a message."""
    listed = list(names)
    return ", ".join([*listed[:count], "…"] if len(listed) > count else listed)
