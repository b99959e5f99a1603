"""What a pipe of SageMaker's holds: image records, or the images and labels of an augmented manifest.

Specification: the developer guide's "Object Detection" (both formats), "Augmented Manifest Files for Training
Jobs" (the order of the attributes) and :mod:`tilewise.data.recordio`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, cast

from tilewise.data.annotations import RawExample
from tilewise.data.checks import ImageInfo, read_image_info
from tilewise.data.decoding.decode import DecodeError, read_header
from tilewise.data.decoding.signatures import starts_like_image
from tilewise.data.formats.recordio import make_example
from tilewise.data.ground_truth import Label, class_map, parse_label
from tilewise.data.label_numbers import ImageLabels
from tilewise.data.quoting import shortened
from tilewise.data.recordio import StreamRecord, read_stream, split_image_record
from tilewise.errors import UserError
from tilewise.targets import Targets

_START = 32
_JSON_STARTS = tuple(bytes([start]) for start in b'{["-0123456789tfn')
_NO_JSON = object()


@dataclass(frozen=True)
class StreamItem:
    """One image that came through a pipe, with its annotation.

    Attributes:
        example: holds the encoded image.
        info: what the image says of itself, or why it cannot be used.
        names: class id -> name, where an augmented manifest streams these, too.
        size: how many bytes it takes in memory, nearly.
        format: what the pipe holds, for messages.

    """

    example: RawExample
    info: ImageInfo | str
    names: Mapping[int, str]
    size: int
    format: str


@dataclass
class _Group:
    """An image and the JSON texts that follow it."""

    number: int
    image: bytes
    texts: list[Any] = field(default_factory=list)


Turn = Callable[[int], bool]
"""Whether the image of a number, counted from 0, is for this host; the others are passed over."""


def read_arrivals(
    stream: IO[bytes],
    name: str,
    turn: Turn = lambda number: True,
    labels: ImageLabels | None = None,
) -> Iterator[StreamItem]:
    """The images of a pipe, in their order; its first record decides what it holds.

    Args:
        stream: see :func:`read_stream`.
        name: names the pipe in messages and in the images' keys.
        turn: which images are for this host.
        labels: how images are labelled; None for objects.

    Raises:
        UserError: the pipe is damaged, empty, or holds something else; the message names it.

    """
    records = read_stream(_checked(stream, name), name)
    first = list(islice(records, 2))
    if not first:
        raise UserError(f"{name} ended without a record: is there any data below the channel's S3 address?")
    manifest = _is_manifest(first, name)
    format = "an augmented manifest" if manifest else "RecordIO image records"
    examples = _manifest_examples if manifest else _image_record_examples
    for example, names in examples(chain(first, records), name, turn, labels):
        size = len(example.encoded or b"") + 64 * len(example.targets) + 2048
        yield StreamItem(example, read_image_info(example), names, size, format)


class _Begun:
    """A stream of which the first bytes have been read already."""

    def __init__(self, start: bytes, rest: IO[bytes]):
        self._start, self._rest = start, rest

    def read(self, count: int) -> bytes:
        """As many bytes as are asked for, fewer only at the end."""
        first, self._start = self._start[:count], self._start[count:]
        return first + self._rest.read(count - len(first)) if len(first) < count else first


def _checked(stream: IO[bytes], name: str) -> IO[bytes]:
    """The stream, unless it begins with what shows how the channel has to be set up instead."""
    start = stream.read(_START)
    if starts_like_image(start):
        raise UserError(
            f"{name} holds bare images, without their labels and one after the other: set RecordWrapperType "
            "to RecordIO for the channel, with an augmented manifest (S3DataType AugmentedManifestFile)"
        )
    if start.lstrip().startswith((b"{", b"[")):
        raise UserError(
            f"{name} holds text ({shortened(start.decode(errors='replace'))}), not RecordIO: for an "
            "augmented manifest set S3DataType to AugmentedManifestFile and RecordWrapperType to RecordIO; a "
            "COCO file or JSON lines need input mode File"
        )
    return cast(IO[bytes], _Begun(start, stream))


def _is_manifest(first: list[StreamRecord], name: str) -> bool:
    """Whether a pipe that begins with these one or two records holds an augmented manifest.

    An image record begins with the number of its labels: one that begins like an image would have millions
    of them, or is a BMP or PPM, which Pillow tells.
    """
    content = first[0].content
    if _as_json(content) is not _NO_JSON:
        raise UserError(
            f"{name}: its first record is JSON text, but an augmented manifest has the image first: list "
            "source-ref first in AttributeNames"
        )
    if starts_like_image(content[:_START]) or _is_image(content):
        return True
    if any(_as_json(record.content) is not _NO_JSON for record in first[1:]):
        return True  # and its first image is damaged
    if content.startswith(bytes.fromhex("0a23d7ce")):
        raise UserError(
            f"{name}: its first record is itself a RecordIO file: leave RecordWrapperType out for .rec files"
        )
    try:
        split_image_record(first[0], name)
    except UserError:
        raise UserError(
            f"{name}: its first record ({len(content)} bytes, {content[:8].hex()}…) is neither an image "
            "record of MXNet's nor an image: a pipe holds .rec files, or an augmented manifest with "
            "RecordWrapperType RecordIO"
        ) from None
    return False


def _is_image(content: bytes) -> bool:
    try:
        read_header(content)
    except DecodeError:
        return False
    return True


_Found = Iterator[tuple[RawExample, Mapping[int, str]]]


def _image_record_examples(
    records: Iterator[StreamRecord], name: str, turn: Turn, labels: ImageLabels | None
) -> _Found:
    for record in records:
        if turn(record.number):
            header, image = split_image_record(record, name)
            yield replace(make_example(name, Path(name), header, labels), encoded=image), {}


def _manifest_examples(
    records: Iterator[StreamRecord], name: str, turn: Turn, labels: ImageLabels | None
) -> _Found:
    for index, group in enumerate(_groups(records)):
        if turn(index):
            yield _manifest_example(group, name, labels)


def _groups(records: Iterator[StreamRecord]) -> Iterator[_Group]:
    group: _Group | None = None
    for record in records:
        text = _as_json(record.content)
        if text is not _NO_JSON and group is not None:
            group.texts.append(text)
            continue
        if group is not None:
            yield group
        group = _Group(record.number, record.content)
    if group is not None:
        yield group


def _as_json(content: bytes) -> Any:
    """What a JSON text says; :data:`_NO_JSON` for anything else, as an image is."""
    if not content.lstrip(b" \t\r\n").startswith(_JSON_STARTS):
        return _NO_JSON
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return _NO_JSON


def _manifest_example(
    group: _Group, name: str, kind: ImageLabels | None
) -> tuple[RawExample, dict[int, str]]:
    if kind:
        labels = [text for text in group.texts if kind.may_be(text)]
    else:
        labels = [text for text in group.texts if isinstance(text, dict) and "annotations" in text]
    names: dict[int, str] = {}
    for text in group.texts:
        names |= kind.names(labels[0], text) if kind and labels else class_map(text)
    example = RawExample(
        key=f"{name}#{group.number}",
        path=Path(name),
        size=None,
        targets=Targets.none(),
        encoded=group.image,
    )
    if len(labels) != 1:
        what = "is a class or a list of classes" if kind else "has annotations"
        problem = (
            f"{len(labels) or 'none'} of the {len(group.texts)} JSON texts after it {what}: list source-ref "
            "and one label attribute in AttributeNames"
        )
        return replace(example, problem=problem), names
    try:
        label = Label(kind.of_json(labels[0], names), None) if kind else parse_label(labels[0])
    except ValueError as error:
        return replace(example, problem=f"its label: {error}"), names
    found = replace(example, targets=label.targets, size=label.size, unread=label.unread)
    return replace(found, fractions=kind is not None), names
