"""Images with one JSON file each, as LabelMe and the tools after it (X-AnyLabeling, AnyLabeling) write them.

Specification: LabelMe's ``labelme/_label_file.py`` and its example ``labelme2coco.py``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    by_name,
    require_different_images,
    unusable,
)
from tilewise.data.files.exports import LABELME, some_of
from tilewise.data.files.folder import Folder, temporary_folder
from tilewise.data.files.text_files import read_text
from tilewise.data.outlines import (
    ClassNumbers,
    DrawnObject,
    OutlineCounts,
    box_around,
    box_around_line,
    box_around_outline,
    drawn_example,
    joined,
    known_size,
    name_of_class,
    regions_for_all_classes,
)
from tilewise.data.quoting import quoted, shortened, some
from tilewise.errors import UserError
from tilewise.fields import Corners

_KINDS = {
    "polygon": "polygons",
    "rotation": "rotated boxes",
    "oriented_rectangle": "rotated boxes",
    "quadrilateral": "polygons",
    "cuboid": "cuboids",
    "circle": "circles",
    "mask": "masks",
    "linestrip": "closed lines",
}
_WITHOUT_AREA = ("point", "points", "line")
IGNORE = "__ignore__"
"""The label of regions that LabelMe's own converters leave out of the loss."""


class _LabelMeShape(msgspec.Struct, gc=False):
    label: Any = None
    points: Any = None
    shape_type: Any = None
    group_id: Any = None
    flags: Any = None
    difficult: Any = None


class _LabelMeFile(msgspec.Struct):
    """What is used of a file; of its image only the text is kept, and only where that is wanted."""

    shapes: list[_LabelMeShape]
    imagePath: Any = None  # the file's own names
    imageWidth: Any = None
    imageHeight: Any = None


class _LabelMeImage(msgspec.Struct):
    imageData: str | None = None


def find_labelme(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds LabelMe's JSON files: in its annotation channel, or beside its images."""
    of_labelme = some_of(source.annotations, LABELME, ".json")
    if not of_labelme:
        return None
    files = source.annotations.with_suffix(".json")
    return DetectedFormat(LABELME, some(of_labelme), partial(read_labelme, files, source.images, source.name))


def read_labelme(files: Mapping[str, Path], folder: Folder, channel: str) -> ParsedChannel:
    """Read images and their JSON files; classes are the labels in alphabetical order.

    Of outlines the boxes around them are taken; outlines of one label and one ``group_id`` are one object. An
    image that is not in the channel is taken out of its JSON file, where that holds it.

    Args:
        files: JSON files by their names relative to their folder; those of another form that are named like
            no image are passed over.
        folder: holds the images.
        channel: whose they are, for messages.

    Returns:
        Images without a JSON file among the examples, as problems.

    Raises:
        UserError: two files annotate one image.

    """
    numbers, counts = ClassNumbers(), OutlineCounts()
    embedded = _EmbeddedImages()
    examples = [
        example
        for key, path in files.items()
        if (example := _example(key, path, folder, embedded, numbers, counts))
    ]
    require_different_images(examples)
    counts.tell(channel)
    named = {example.path for example in examples}
    hint = "no JSON file annotates it; an image without objects needs one with an empty list of shapes"
    examples += [unusable(name, path, hint) for name, path in folder.images.items() if path not in named]
    return by_name(*regions_for_all_classes(examples, list(numbers), IGNORE))


class _EmbeddedImages:
    """The images that JSON files hold themselves, as files."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._count = 0

    def write(self, path: Path) -> Path | None:
        """The image in a JSON file as a file of its own; None where it holds none.

        Raises:
            ValueError: its text is no image.

        """
        text = msgspec.json.decode(read_text(path), type=_LabelMeImage).imageData
        if not text:
            return None
        try:
            content = base64.b64decode(text.rpartition(",")[2], validate=True)
        except ValueError:
            raise ValueError(f"its imageData is {quoted(text)}, not an image in base64") from None
        self._folder = self._folder or temporary_folder()
        self._count += 1
        image = self._folder / f"{self._count}.image"
        image.write_bytes(content)
        return image


def _example(  # all but the first two are those of the channel
    key: str,
    path: Path,
    folder: Folder,
    embedded: _EmbeddedImages,
    numbers: ClassNumbers,
    counts: OutlineCounts,
) -> RawExample | None:
    """An example; None for a file of another form that stands for no image."""
    like = folder.find_image_like(key)
    image = folder.files[like] if like else None
    try:
        content = msgspec.json.decode(read_text(path), type=_LabelMeFile)
    except (msgspec.MsgspecError, ValueError, RecursionError, UserError) as error:
        return unusable(key, image, f"not a JSON file of LabelMe's form: {error}") if image else None
    try:
        image = _find_image(key, content.imagePath, folder) or image or embedded.write(path)
        if image is None:
            name = content.imagePath or f"{PurePosixPath(key).stem}.*"
            return unusable(
                key, None, f"its image {shortened(str(name))} is not in the channel, or not only once"
            )
        size = known_size(content.imageWidth, content.imageHeight)
        objects, unread = _objects(content.shapes, counts)
        return drawn_example(key, image, size, objects=objects, numbers=numbers, unread=unread)
    except (ValueError, msgspec.MsgspecError) as error:
        return unusable(key, image, str(error))


def _find_image(key: str, name: Any, folder: Folder) -> Path | None:
    """By ``imagePath``, which begins at the JSON file's folder and may have Windows' separators."""
    if not isinstance(name, str) or not name:
        return None
    name = name.replace("\\", "/")
    beside = PurePosixPath(key).parent / name
    found = folder.find_image(_without_dots(beside)) or folder.find_image(_without_dots(PurePosixPath(name)))
    return folder.files[found] if found else None


def _without_dots(path: PurePosixPath) -> str:
    """``a/../images/b.jpg`` -> ``images/b.jpg``; what leads out of the folder is cut off."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts:
            parts.pop()
        elif part not in ("..", ".", "/"):
            parts.append(part)
    return "/".join(parts)


def _objects(shapes: list[_LabelMeShape], counts: OutlineCounts) -> tuple[list[DrawnObject], list[str]]:
    """One for each shape, or for outlines that are one object; and what is wrong with the others."""
    objects: dict[object, DrawnObject] = {}
    unread: list[str] = []
    for index, shape in enumerate(shapes):
        try:
            found = _object(shape)
            kind = str(shape.shape_type or "polygon")
            together = shape.group_id is not None and kind != "rectangle"
            part_of = (found.name, repr(shape.group_id)) if together else index
            objects[part_of] = joined(objects.get(part_of), found)
            if kind in _KINDS:
                counts[_KINDS[kind]] += 1
        except ValueError as error:
            unread.append(f"shapes[{index}] ({shortened(str(shape.label))}): {error}")
    return list(objects.values()), unread


def _object(shape: _LabelMeShape) -> DrawnObject:
    flags = shape.flags if isinstance(shape.flags, dict) else {}
    ignored = shape.difficult is True or flags.get("difficult") is True
    return DrawnObject(name_of_class(shape.label), _box(shape), ignored)


def _box(shape: _LabelMeShape) -> Corners:
    kind = "polygon" if shape.shape_type is None else shape.shape_type
    if kind == "rectangle":
        return box_around(shape.points)
    if kind == "circle":
        if not isinstance(shape.points, list) or len(shape.points) != 2:
            raise ValueError(f"its circle has the points {quoted(shape.points)}, not a centre and an edge")
        left, top, right, bottom = box_around(shape.points)
        radius = math.hypot(right - left, bottom - top)
        x, y = map(float, shape.points[0])
        return x - radius, y - radius, x + radius, y + radius
    if kind == "mask":  # its corners are pixels, of which the last ones belong to it
        left, top, right, bottom = box_around(shape.points)
        return left, top, right + 1, bottom + 1
    if kind == "linestrip":
        return box_around_line(shape.points, kind)
    if isinstance(kind, str) and kind in _KINDS:
        return box_around_outline(shape.points, kind)
    if isinstance(kind, str) and kind in _WITHOUT_AREA:
        raise ValueError(f"it is a {kind}, which has no area: draw a box or a polygon, or delete it")
    raise ValueError(f"its shape_type is {quoted(kind)}, not one of rectangle, {', '.join(_KINDS)}")
