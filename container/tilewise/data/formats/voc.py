"""Images with one XML file each, as Pascal VOC and LabelImg write them.

Specification: the VOC2012 development kit, section "Annotation format"; what later tools made of it is said
where it differs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from tilewise.arrays import Array, Float64
from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    boxes_from_corners,
    by_name,
    require_different_images,
    unusable,
)
from tilewise.data.files.exports import kind_of
from tilewise.data.files.folder import Folder
from tilewise.data.files.safe_xml import ERRORS, parse_xml
from tilewise.data.files.text_files import open_text
from tilewise.data.formats.voc_masks import add_instance_masks
from tilewise.data.quoting import NoValue, as_number, some
from tilewise.errors import UserError
from tilewise.targets import Targets

log = logging.getLogger(__name__)

MAX_CANDIDATES = 10
PEEK = 64 * 1024
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _VocAnnotation:
    """One file's content: ``boxes`` as they stand there, ``names`` and ``difficult`` one an object.

    ``unread`` says why other objects have no box.
    """

    filename: str
    size: tuple[int, int] | None
    boxes: Float64
    names: list[str]
    difficult: list[bool]
    unread: tuple[str, ...]


_SPLIT_LIST = re.compile(r"(^|/)ImageSets/Main/(train|val|test)\.txt$", re.IGNORECASE)
"""VOC's lists of the images of a split."""


def find_voc(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds VOC's XML files: in its annotation channel, or with its images."""
    folder = source.annotations
    files = folder.with_suffix(".xml")
    first = islice(files.values(), MAX_CANDIDATES)
    if not any(_looks_like_voc(path) and not folder.ask(kind_of, path) for path in first):
        return None
    lists = [name for name in folder.with_suffix(".txt") if _SPLIT_LIST.search(name)]
    if len(lists) > 1:
        log.warning(
            "channel %s: the lists %s are not read, and all images count as this channel's: give the images "
            "of each list as a channel of its own (train, validation)",
            source.name,
            " and ".join(sorted(lists)),
        )
    return DetectedFormat("Pascal VOC XML", some(files), partial(read_voc, files, source))


def _looks_like_voc(path: Path) -> bool:
    try:
        with open_text(path) as file:  # which may be in UTF-16
            return re.search(rb"<annotation[\s>]", file.read(PEEK)) is not None
    except UserError:
        return False


def read_voc(files: Mapping[str, Path], source: ChannelSource) -> ParsedChannel:
    """Read images and their XML files; classes are the objects' names in alphabetical order.

    Pixels count from 1 in VOC, and the last one belongs to its box. Many tools count from 0: where any box of
    the channel begins before 1, all are taken so.

    Args:
        files: the XML files by their names relative to their folder.
        source: the channel. Where masks are wanted, they are those of a PNG file of an XML file's stem, as in
            VOC's ``SegmentationObject``: its values, in ascending order and without 0 and, of eight bits,
            VOC's border 255, are the objects of the XML file.

    Returns:
        Difficult objects as ignored boxes; images without an XML file among the examples, as problems.

    Raises:
        UserError: two files annotate one image.

    """
    read = {key: _read(path) for key, path in files.items()}
    starts = (one.boxes[:, :2].min(initial=1) for one in read.values() if not isinstance(one, str))
    first = min(starts, default=1)
    if first < 1:
        log.info(
            "channel %s: a box begins at %g, so pixels count from 0 and all boxes are taken as they are",
            source.name,
            first,
        )
    numbers: dict[str, int] = {}
    folder = source.images
    examples = [_example(key, one, folder, 0 if first < 1 else 1, numbers) for key, one in read.items()]
    require_different_images(examples)
    files_of_masks: frozenset[Path] = frozenset()
    if source.masks:
        examples, files_of_masks = add_instance_masks(examples, list(files), source)
    return by_name(examples + _without_xml(examples, folder, files_of_masks), list(numbers))


def _without_xml(
    examples: list[RawExample], folder: Folder, files_of_masks: frozenset[Path]
) -> list[RawExample]:
    """Problems for images that no file names; a development kit has masks beside its ``JPEGImages``, too."""
    named = {example.path for example in examples} | files_of_masks
    photos = {name: path for name, path in folder.images.items() if "/JPEGImages/" in f"/{name}"}
    hint = "no XML file annotates it; an image without objects needs one without any object"
    images = photos or folder.images
    return [unusable(name, path, hint) for name, path in images.items() if path not in named]


def _example(
    key: str, annotation: _VocAnnotation | str, folder: Folder, origin: int, numbers: dict[str, int]
) -> RawExample:
    """An example whose labels are the numbers that its names have by then."""
    image = _find_image(key, "" if isinstance(annotation, str) else annotation.filename, folder)
    path = folder.files[image] if image else None
    if isinstance(annotation, str):
        return unusable(key, path, annotation)
    if path is None:
        what = f"{Path(key).stem}.*" + (f" or {annotation.filename}" if annotation.filename else "")
        return unusable(key, None, f"its image {what} is not in the channel, or not only once")
    labels = np.asarray([numbers.setdefault(name, len(numbers)) for name in annotation.names], np.int64)
    boxes = boxes_from_corners(annotation.boxes - [origin, origin, 0, 0])
    targets: Targets[Array] = Targets(boxes, labels, np.asarray(annotation.difficult, np.bool_))
    return RawExample(key, path, annotation.size, targets, unread=annotation.unread)


def _find_image(key: str, filename: str, folder: Folder) -> str | None:
    """By the XML file's own name first: ``filename`` is often left from another image or machine."""
    swapped = [
        re.sub(r"(^|/)Annotations/", rf"\1{instead}", key, flags=re.IGNORECASE)
        for instead in ("JPEGImages/", "images/", "")
    ]
    for name in dict.fromkeys([*swapped, key]):
        image_name = folder.find_image_like(name)
        if image_name:
            return image_name
    name = filename.replace("\\", "/")
    parent = swapped[0].rpartition("/")[0]
    return (folder.find_image(f"{parent}/{name}") or folder.find_image(name)) if name else None


def _read(path: Path) -> _VocAnnotation | str:
    """A file's content, or what is wrong with it."""
    try:
        root = parse_xml(path.read_bytes())
    except ERRORS as error:
        return f"not valid XML: {error}"
    try:
        return _annotation(root)
    except ValueError as error:
        return f"not an annotation of Pascal VOC's form: {error}"


def _annotation(root: Element) -> _VocAnnotation:
    if root.tag != "annotation":
        raise ValueError(f"it begins with <{root.tag}>, not <annotation>")
    boxes, names, difficult, unread = [], [], [], []
    for index, item in enumerate(root.iterfind("object"), 1):
        try:
            box, name = _box(item), _text(item, "name")
            ignored = bool(as_number((item.findtext("difficult") or "").strip() or 0, "its difficult is"))
            boxes.append(box)
            names.append(name)
            difficult.append(ignored)
        except NoValue as error:
            unread.append(f"object {index}: {error}")
        except ValueError as error:
            raise ValueError(f"object {index}: {error}") from None
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    filename = (root.findtext("filename") or "").strip()
    return _VocAnnotation(filename, _size(root), corners, names, difficult, tuple(unread))


def _box(item: Element) -> list[float]:
    box = item.find("bndbox")
    if box is None:
        others = [child.tag for child in item if child.tag in ("robndbox", "polygon", "point")]
        raise ValueError(
            "it has no bndbox" + (f", but a {others[0]}: only upright boxes count" if others else "")
        )
    missing = [corner for corner in _CORNERS if box.find(corner) is None]
    if missing:
        raise ValueError(f"its {missing[0]} is missing")
    numbers = [as_number(box.findtext(corner), f"its {corner} is") for corner in _CORNERS]
    if not np.isfinite(numbers).all():
        raise ValueError(f"its bndbox has the corners {', '.join(map(str, numbers))}")
    return numbers


def _text(item: Element, tag: str) -> str:
    text = (item.findtext(tag) or "").strip()
    if not text:
        raise ValueError(f"its {tag} is missing")
    return text


def _size(root: Element) -> tuple[int, int] | None:
    """Some tools write 0 for what they do not know."""
    size = root.find("size")
    try:
        width, height = (
            int(
                as_number(
                    (size.findtext(side) if size is not None else None) or 0, f"the {side} of its size is"
                )
            )
            for side in ("width", "height")
        )
    except OverflowError:
        raise ValueError("the width or height of its size is not finite") from None
    return (width, height) if width > 0 and height > 0 else None
