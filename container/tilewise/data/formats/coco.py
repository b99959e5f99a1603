"""Images and one COCO JSON file.

Specification: cocodataset.org, "Data format", section "Object Detection".
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tilewise.arrays import Array
from tilewise.data.annotations import ChannelSource, DetectedFormat, ParsedChannel, RawExample
from tilewise.data.folder import Folder
from tilewise.data.json_lines import format_of_lines
from tilewise.errors import UserError
from tilewise.targets import Targets

MAX_CANDIDATES = 10
PEEK = 64 * 1024
_COCO_PLACE = re.compile(r"(annotations/)?[^/]*\.json", re.IGNORECASE)


class _Category(msgspec.Struct, gc=False):
    id: Any = msgspec.UNSET
    name: Any = msgspec.UNSET


class _Image(msgspec.Struct, gc=False):
    id: Any = msgspec.UNSET
    file_name: Any = msgspec.UNSET
    width: Any = None
    height: Any = None


class _CocoAnnotation(msgspec.Struct, gc=False):
    id: Any = None
    image_id: Any = msgspec.UNSET
    category_id: Any = msgspec.UNSET
    bbox: Any = None
    iscrowd: Any = None


class _Whole(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]


class _File(_Whole):
    """What is used of a COCO file; its annotations are decoded one by one, to be packed at once."""

    annotations: list[msgspec.Raw] | None = None


class _PlainFile(_Whole):
    annotations: list[_CocoAnnotation] | None = None


_decode = msgspec.json.Decoder(_CocoAnnotation).decode


class _Objects:
    """All objects of a file, packed."""

    def __init__(self) -> None:
        self.boxes = array("f")
        self.labels = array("i")
        self.ignored = bytearray()
        self.images = array("i")

    def add(self, row: _CocoAnnotation, positions: Mapping[Any, int], index_of: Mapping[int, int]) -> None:
        """Check an annotation and append it."""
        number, box = int(_given(row.category_id, "category_id")), row.bbox
        if number not in index_of:
            known = ", ".join(map(str, index_of))
            who = f"annotation {row.id}"
            raise ValueError(
                f"{who} has category_id {number}, which is not among the categories' ids {known}"
            )
        if not isinstance(box, list) or len(box) != 4:
            raise ValueError(f"annotation {row.id} has the bbox {box}, not 4 numbers")
        image = positions.get(_given(row.image_id, "image_id"))
        if image is None:
            raise ValueError(
                f"annotation {row.id} has image_id {row.image_id}, which no image in the file has"
            )
        x, y, width, height = map(float, box)
        self.boxes.extend((x, y, x + width, y + height))
        self.labels.append(index_of[number])
        self.ignored.append(bool(int(row.iscrowd or 0)))
        self.images.append(image)

    def by_image(self, count: int) -> tuple[Targets[Array], list[int]]:
        """The objects in the order of their images, crowds ignored, and where those of each image end."""
        images = np.asarray(self.images, np.int64)
        order = np.argsort(images, kind="stable")
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)[order]
        labels = np.asarray(self.labels, np.int64)[order]
        ignored = np.frombuffer(bytes(self.ignored), np.bool_)[order]
        ends: list[int] = np.cumsum(np.bincount(images, minlength=count)).tolist()
        return Targets(boxes, labels, ignored), ends


def find_coco(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds a COCO file: in its annotation channel, or beside its images."""
    file = find_coco_file(source.annotations)
    if file is None:
        return None
    return DetectedFormat("COCO", file.name, lambda: read_coco(file, source.images))


def find_coco_file(folder: Folder) -> Path | None:
    """The COCO file in a folder or in its ``annotations/``, or None.

    Of many ``.json`` files only the largest few are looked into, and of each only its beginning and its end.

    Raises:
        UserError: there are several.

    """
    files = [path for name, path in folder.with_suffix(".json").items() if _COCO_PLACE.fullmatch(name)]
    files = sorted(files, key=lambda path: path.stat().st_size)[-MAX_CANDIDATES:]
    coco_files = sorted(path.relative_to(folder.root).as_posix() for path in files if _looks_like_coco(path))
    if len(coco_files) > 1:
        names = ", ".join(coco_files)
        raise UserError(
            f"channel {folder.root.name} holds several COCO files ({names}): keep one in each channel"
        )
    return folder.root / coco_files[0] if coco_files else None


def _looks_like_coco(path: Path) -> bool:
    """By keys that an annotation file of one image does not have."""
    with path.open("rb") as file:
        content = file.read(PEEK)
        size = path.stat().st_size
        file.seek(max(PEEK, size - PEEK))
        content += file.read()
    # Of a large file the key "images" itself may stand in the middle.
    keys = rb"images" if size <= 2 * PEEK else rb"images|image_id|file_name"
    if not re.search(rb'"(?:' + keys + rb')"\s*:', content):
        return False
    return not format_of_lines(path)  # a manifest's lines may say more of their images, under such keys


def read_coco(file: Path, images: Folder) -> ParsedChannel:
    """Read a COCO file; its images are looked for below ``images``.

    Crowds are kept as ignored boxes. Boxes are float pixels ``x, y, width, height`` from the top left.

    Raises:
        UserError: the file is not JSON, not COCO, or contradicts itself; the message names file and entry.

    """
    try:
        return _parse(_load(file), images)
    except KeyError as error:
        raise UserError(f"{file.name} is not a COCO file: the key {error} is missing") from None
    except (TypeError, ValueError, AttributeError, OverflowError, msgspec.ValidationError) as error:
        raise UserError(f"{file.name} is not a COCO file: {error}") from None


def _load(file: Path) -> _File | _PlainFile:
    """Read with msgspec: a million annotations as Python's dictionaries would take a gigabyte."""
    content = file.read_bytes()
    try:
        return msgspec.json.decode(content, type=_File)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass  # Python's reader takes more, such as NaN, and says better what is wrong
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name} is not valid JSON: {error}") from None
    return msgspec.convert(plain, type=_PlainFile)


def _parse(content: _File | _PlainFile, folder: Folder) -> ParsedChannel:
    classes, index_of = _classes(content.categories)
    positions = _positions(content.images)
    objects = _Objects()
    for annotation in _annotations(content):
        objects.add(annotation, positions, index_of)
    targets, ends = objects.by_image(len(content.images))
    examples = []
    for image, start, end in zip(content.images, [0, *ends], ends, strict=False):
        name = str(_given(image.file_name, "file_name"))
        image_name = folder.find_image(name)
        width, height = int(image.width or 0), int(image.height or 0)
        path = folder.images[image_name] if image_name else None
        size = (width, height) if width and height else None
        examples.append(RawExample(name, path, size, targets.select(slice(start, end))))
    _check_files(examples)
    return ParsedChannel(examples, classes)


def _annotations(content: _File | _PlainFile) -> Iterator[_CocoAnnotation]:
    """Each of them once: what has been given is forgotten, and with the last one the file's bytes are."""
    if isinstance(content, _PlainFile):
        yield from content.annotations or []
        return
    rows, content.annotations = content.annotations or [], None
    rows.reverse()
    count = len(rows)
    while rows:
        try:
            yield _decode(rows.pop())
        except msgspec.ValidationError as error:
            raise ValueError(f"{error} at `$.annotations[{count - len(rows) - 1}]`") from None


def _classes(categories: list[_Category]) -> tuple[tuple[str, ...], dict[int, int]]:
    """The names by id, and where each id is among them."""
    ordered = sorted(categories, key=lambda category: int(_given(category.id, "id")))
    classes = tuple(str(_given(category.name, "name")) for category in ordered)
    index_of = {int(category.id): index for index, category in enumerate(ordered)}
    if not ordered:
        raise ValueError("it has no categories")
    if len(index_of) < len(ordered):
        raise ValueError(f"two of its categories have the same id, of {', '.join(map(str, index_of))}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"two of its categories have the same name, of {', '.join(classes)}")
    return classes, index_of


def _positions(images: list[_Image]) -> dict[Any, int]:
    """Image id -> where it is in the list."""
    positions: dict[Any, int] = {}
    for index, image in enumerate(images):
        number = _given(image.id, "id")
        if positions.setdefault(number, index) != index:
            raise ValueError(f"two images have the id {number}")
    return positions


def _given(value: Any, key: str) -> Any:
    if value is msgspec.UNSET:
        raise KeyError(key)
    return value


def _check_files(examples: list[RawExample]) -> None:
    first: dict[Path, str] = {}
    for example in examples:
        if example.path is not None and example.path in first:
            raise ValueError(f"two images are the same file: {first[example.path]} and {example.key}")
        if example.path is not None:
            first[example.path] = example.key
