"""What the reader of a format is given, and what it gives: examples that are not yet checked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tilewise.arrays import Array, Float32, Int64
from tilewise.data.files.folder import Folder
from tilewise.data.image_labels import ONE_LABEL, SEVERAL_LABELS
from tilewise.data.quoting import some
from tilewise.data.records import WHOLE_FILE
from tilewise.errors import UserError
from tilewise.masks import MASKS, Masks
from tilewise.targets import Targets

log = logging.getLogger(__name__)

MAX_FRACTION = 2
"""A careless box may reach beyond its image, but not that far: then it is in pixels."""


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
        empty_image: where a file names many images, what it has for one without objects, "" where there is
            no such image; None where each image has a file of its own, or lies in one.

    """

    format: str
    where: str
    read: Callable[[], ParsedChannel]
    empty_image: str | None = None


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


def require_different_images(examples: Iterable[RawExample]) -> None:
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
                    f"{key} and {example.key} annotate the same image {example.path.name}: keep one, with "
                    "all of its objects"
                )


def read_format(found: DetectedFormat, source: ChannelSource) -> ParsedChannel:
    """Read a channel of a known format, and log which of its images are not annotated there, so not used."""
    parsed = with_fields(found.read(), source.fields)
    if found.empty_image is not None:
        named = {example.path for example in parsed.examples}
        if unnamed := [name for name, path in source.images.images.items() if path not in named]:
            log.warning(
                "channel %s: %d of its images are not annotated in %s and not used, such as %s%s",
                source.name,
                len(unnamed),
                found.where,
                some(unnamed),
                f": an image without objects needs {found.empty_image}" if found.empty_image else "",
            )
    return parsed


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
