"""What the readers of every format share: raw examples in, clean packed Records and their issues out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilewise.arrays import Array, Float32, Int64
from tilewise.data.decode import DecodeError, ImageHeader, read_header
from tilewise.data.folder import Folder
from tilewise.data.records import WHOLE_FILE, Record, Records, open_encoded
from tilewise.errors import UserError
from tilewise.targets import Targets
from tilewise.views.rendering import AS_STORED, Rendering

log = logging.getLogger(__name__)

MAX_LEFT_OUT = 0.05
"""A channel may lose this share of its images to damage before the job stops."""

MAX_FRACTION = 2
"""A careless box may reach beyond its image, but not that far: then it is in pixels."""

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

    """

    key: str
    path: Path | None
    size: tuple[int, int] | None
    targets: Targets[Array]
    problem: str = ""
    offset: int = WHOLE_FILE
    fractions: bool = False
    encoded: bytes | None = None

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

    """

    examples: list[RawExample]
    classes: tuple[str, ...] | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    ids: tuple[int, ...] = ()

    @cached_property
    def used(self) -> frozenset[int]:
        """The labels that objects have."""
        labels = [example.targets.labels for example in self.examples]
        return frozenset(np.unique(np.concatenate([*labels, np.zeros(0, np.int64)])).tolist())


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

    """

    name: str
    images: Folder
    annotations: Folder
    annotation_name: str


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
        clipped: boxes that reached beyond their image and were cut at its border.
        dropped: record and reason of each box that could not be used.
        rendering: of the channel's images.
        remarks: what of an image is left aside, and has been said.

    """

    channel: str
    images: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    clipped: int = 0
    dropped: list[str] = field(default_factory=list)
    expected: int = 0
    rendering: Rendering = AS_STORED
    remarks: set[str] = field(default_factory=set)

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
        """Note a box that cannot be used."""
        self.dropped.append(f"{key}: {reason}")
        self._warn(len(self.dropped), f"{key}: {reason}; it is dropped")

    def _warn(self, count: int, message: str) -> None:
        if count <= MAX_WARNINGS:
            more = "; further ones are only counted" if count == MAX_WARNINGS else ""
            log.warning("channel %s: %s%s", self.channel, message, more)

    def begin_pass(self, expected: int) -> None:
        """Start counting again, for a pipe's next pass."""
        self.images, self.clipped, self.expected = 0, 0, expected
        self.left_out.clear()
        self.dropped.clear()

    def finish_pass(self) -> None:
        """Note that no more images come.

        Raises:
            UserError: more than :data:`MAX_LEFT_OUT` of the channel's images cannot be used, or none can.

        """
        self.expected = 0
        self.check()
        if self.left_out and len(self.left_out) == self.images:
            raise UserError(f"channel {self.channel} holds no image that can be used")

    def check(self) -> None:
        """Stop the job when too many images cannot be used.

        Raises:
            UserError: more than :data:`MAX_LEFT_OUT` of the channel's images cannot be used.

        """
        if len(self.left_out) > MAX_LEFT_OUT * max(self.images, self.expected):
            so_far = " so far" if self.expected else ""
            first = "; ".join(f"{key}: {reason}" for key, reason in list(self.left_out.items())[:3])
            raise UserError(
                f"channel {self.channel}: {len(self.left_out)} of {self.images} images{so_far} cannot be "
                f"used, more than {MAX_LEFT_OUT:.0%}; fix or remove them, starting with: {first}"
            )


def make_records(examples: Sequence[RawExample], issues: ChannelIssues) -> Records:
    """Check examples against their images and pack them.

    The images' headers are read, not their pixels. Boxes are clipped to the image; those with nothing left
    are dropped. Images that cannot be used are noted in the issues.

    Raises:
        UserError: too many images cannot be used, or none is left.

    """
    issues.images = len(examples)
    chunks = [examples[start : start + _CHUNK] for start in range(0, len(examples), _CHUNK)]
    with ThreadPoolExecutor(8) as pool:
        infos = chain.from_iterable(pool.map(_read_image_infos, chunks))
        pairs = zip(examples, infos, strict=True)
        records = Records(record for pair in pairs if (record := check_example(*pair, issues)))
    issues.check()
    if not len(records):
        raise UserError(f"channel {issues.channel} holds no image that can be used")
    return records


_CHUNK = 256  # examples that a thread takes at once: a hundred thousand single jobs cost more than their work

ImageInfo = tuple[ImageHeader, int]
"""An image's header and the number of its bytes."""


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

    Boxes are clipped to the image; those with nothing left are dropped.
    """
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
    issues.note_remarks(example.key, header)
    return Record(
        key=example.key,
        path=example.path,
        width=header.width,
        height=header.height,
        targets=_clean(example, header, issues),
        offset=example.offset,
        length=length,
        encoded=example.encoded,
    )


def _clean(example: RawExample, header: ImageHeader, issues: ChannelIssues) -> Targets[Array]:
    """Targets in pixels, with boxes clipped to the image; those with nothing left are gone."""
    size = header.width, header.height
    sides = np.asarray((*size, *size), np.float32)
    targets = example.targets
    if example.fractions:
        fields = {name: each.crop((0, 0, 1, 1), size) for name, each in targets.fields.items()}
        targets = replace(targets, boxes=targets.boxes * sides, fields=fields)
    boxes = targets.boxes
    starts, ends = boxes[:, :2], boxes[:, 2:]
    if (starts >= 0).all() and (ends <= sides[:2]).all() and (starts < ends).all():
        return targets
    finite = np.isfinite(boxes).all(axis=1)
    clipped = np.clip(np.nan_to_num(boxes), 0, sides)
    usable = finite & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    # Half a pixel beyond the border is rounding, not worth a line in the log.
    issues.clipped += int((usable & (np.abs(clipped - boxes) > 0.5).any(axis=1)).sum())
    for box in boxes[~usable].tolist():
        issues.note_dropped(example.key, _fault(box))
    return replace(targets, boxes=clipped).select(usable)


def _fault(box: Sequence[float]) -> str:
    x0, y0, x1, y1 = box
    corners = f"the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
    if not np.isfinite(box).all():
        return f"{corners} is not finite"
    return f"{corners} {'has no area' if x1 <= x0 or y1 <= y0 else 'lies outside the image'}"


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
