"""Images and one COCO JSON file.

Specification: cocodataset.org, "Data format", section "Object Detection".
"""

from __future__ import annotations

import json
import logging
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tilewise.arrays import Array
from tilewise.data.annotations import ChannelSource, DetectedFormat, ParsedChannel, RawExample
from tilewise.data.files.addresses import STUDIO_ADDRESS, find_addressed
from tilewise.data.files.exports import kind_of
from tilewise.data.files.folder import Folder
from tilewise.data.files.json_lines import format_of_lines, largest_json, largest_unnamed
from tilewise.data.files.text_files import LargeText, open_text
from tilewise.data.quoting import as_number, quoted, shortened, some
from tilewise.errors import UserError
from tilewise.masks import MASKS, MaskPacker, Outline, RunLengths, Shape
from tilewise.rasters import decompressed, part_of_runs
from tilewise.targets import Targets

log = logging.getLogger(__name__)

PEEK = 64 * 1024
_USUAL_PLACE = re.compile(r"(annotations/)?[^/]*", re.IGNORECASE)
_NOT_FOUND = "its image file is not in the channel, or not only once"
_NO_GROUP = "none"
"""What Roboflow gives as the supercategory of a category that only groups the others."""


class _Category(msgspec.Struct, gc=False):
    id: Any = msgspec.UNSET
    name: Any = msgspec.UNSET
    supercategory: Any = None


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


class _Outlined(_CocoAnnotation, gc=False):
    """With its outline, decoded only where it is asked for or there is no box: it is most of a file."""

    segmentation: Any = None


class _Whole(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]


class _File(_Whole):
    """What is used of a COCO file; its annotations are decoded one by one, to be packed at once."""

    annotations: list[msgspec.Raw] | None = None


class _PlainFile(_Whole):
    annotations: list[_Outlined] | None = None


_decode = msgspec.json.Decoder(_CocoAnnotation).decode
_decode_outlined = msgspec.json.Decoder(_Outlined).decode


class _Ids:
    """Which entry of a list has an id; a number and the text of it are the same where no two entries clash.

    Args:
        ids: of the entries, in their order.
        what: what the entries are, for messages.

    """

    def __init__(self, ids: Sequence[Any], what: str):
        self.what = what
        self._index_of: dict[Any, int] = {}
        for index, given in enumerate(ids):
            if not _is_id(given):
                raise ValueError(f"{what}[{index}] has the id {quoted(given)}, neither a number nor a text")
            if self._index_of.setdefault(given, index) != index:
                raise ValueError(f"two of the {what} have the same id, {quoted(given)}")
        texts = {_as_text(given): index for given, index in self._index_of.items()}
        self._index_of_text = texts if len(texts) == len(self._index_of) else {}

    def find(self, given: Any, annotation: Any, key: str) -> int:
        """The entry that an annotation means."""
        found = self._index_of.get(given) if _is_id(given) else None
        if found is None:
            found = self._index_of_text.get(_as_text(given)) if _is_id(given) else None
        if found is None:
            known = some(map(quoted, self._index_of))
            raise ValueError(
                f"annotation {_name(annotation)} has {key} {quoted(given)}, which none of the "
                f"{self.what} has: their ids are {known}"
            )
        return found


def _name(annotation: Any) -> str:
    """An annotation's id as messages name it."""
    return shortened(str(annotation))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _as_text(value: Any) -> str:
    """The text of an id, with no sign of how it was written."""
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    return str(int(text)) if text.isascii() and text.isdigit() and len(text) < 1000 else text


class _Objects:
    """All objects of a file, packed."""

    def __init__(self, *, masks: bool) -> None:
        self.masks = MaskPacker() if masks else None
        self.unread_masks: dict[int, list[str]] = {}
        self.boxes = array("f")
        self.labels = array("i")
        self.ignored = bytearray()
        self.images = array("i")
        self.unread: dict[int, list[str]] = {}

    def add(self, number: int, row: _CocoAnnotation, images: _Ids, categories: _Ids) -> None:
        """Check an annotation, the file's ``number``-th from 0, and append it."""
        category, of_image = (
            _given(given, key, "annotations", number)
            for given, key in ((row.category_id, "category_id"), (row.image_id, "image_id"))
        )
        label = categories.find(category, row.id, "category_id")
        image = images.find(of_image, row.id, "image_id")
        try:
            box = _box(row)
        except ValueError as error:
            self.unread.setdefault(image, []).append(f"annotation {_name(row.id)} {error}")
            return
        if self.masks is not None:
            self.masks.add(self._mask(row, image))
        self.boxes.extend(box)
        self.labels.append(label)
        self.ignored.append(_flag(row))
        self.images.append(image)

    def _mask(self, row: _CocoAnnotation, image: int) -> Shape | None:
        """The mask of an annotation that has one; what is wrong with another is kept."""
        try:
            return shape_of(row.segmentation) if isinstance(row, _Outlined) and row.segmentation else None
        except ValueError as error:
            self.unread_masks.setdefault(image, []).append(f"annotation {_name(row.id)} has {error}")
            return None

    def by_image(self, count: int) -> tuple[Targets[Array], list[int]]:
        """The objects in the order of their images, crowds ignored, and where those of each image end."""
        images = np.asarray(self.images, np.int64)
        order = np.argsort(images, kind="stable")
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)[order]
        labels = np.asarray(self.labels, np.int64)[order]
        ignored = np.frombuffer(bytes(self.ignored), np.bool_)[order]
        ends: list[int] = np.cumsum(np.bincount(images, minlength=count)).tolist()
        fields = {} if self.masks is None else {MASKS: self.masks.masks().select(order)}
        return Targets(boxes, labels, ignored, fields), ends


def _flag(row: _CocoAnnotation) -> bool:
    given = row.iscrowd or 0
    try:
        return bool(int(given))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"annotation {_name(row.id)} has iscrowd {quoted(given)}, not 0 or 1") from None


def _box(row: _CocoAnnotation) -> tuple[float, float, float, float]:
    """``xmin, ymin, xmax, ymax`` of an annotation's box, or where it has none, around its outline."""
    if isinstance(row, _Outlined) and row.segmentation and _without_box(row):
        return _around(row.segmentation)
    if not isinstance(row.bbox, list) or len(row.bbox) != 4:
        raise ValueError(f"has the bbox {quoted(row.bbox)}, not 4 numbers")
    try:
        x, y, width, height = map(float, row.bbox)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"has the bbox {quoted(row.bbox)}, not 4 numbers") from None
    return x, y, x + width, y + height


def _without_box(row: _CocoAnnotation) -> bool:
    return not row.bbox or row.bbox == [0, 0, 0, 0]


def _around(outline: Any) -> tuple[float, float, float, float]:
    """The box around polygons or a mask."""
    try:
        shape = shape_of(outline)
    except ValueError as error:
        raise ValueError(f"has no bbox, and {error}") from None
    if isinstance(shape, RunLengths):
        bitmap, left, top = part_of_runs(shape.width, shape.height, shape.counts)
        return left, top, left + bitmap.shape[1], top + bitmap.shape[0]
    points = np.concatenate(shape.rings)
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x0, y0, x1, y1


def shape_of(outline: Any) -> Shape:
    """A ``segmentation``: polygons, or a mask as COCO packs it, compressed, or as a list of run lengths.

    Raises:
        ValueError: it is something else; the message follows "has".

    """
    if isinstance(outline, dict):
        return _run_lengths(outline)
    if not isinstance(outline, list) or not outline:
        raise ValueError(f"the segmentation {quoted(outline)}")
    rings = []
    for part in outline if isinstance(outline[0], list) else [outline]:
        if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
            raise ValueError(f"a polygon {quoted(part)}, not x and y of 3 points or more")
        numbers = [as_number(value, "a polygon with") for value in part]
        rings.append(np.array(numbers, np.float64).reshape(-1, 2))
    return Outline(rings)


def _run_lengths(mask: dict[str, Any]) -> RunLengths:
    problem = f"the mask {quoted(mask)}, not the size and counts of COCO's run lengths"
    size: Any = mask.get("size")
    counts: Any = mask.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        raise ValueError(problem)
    height, width = size
    if not (0 < height < 2**31 and 0 < width < 2**31 and height * width < 2**31):
        raise ValueError(problem)
    if isinstance(counts, list) and all(type(run) is int and 0 <= run < 2**31 for run in counts):
        runs = np.asarray(counts, np.int64)
    elif isinstance(counts, str) and counts and counts.isascii():
        try:
            runs = decompressed(counts.encode())
        except ValueError:
            raise ValueError(problem) from None
    else:
        raise ValueError(problem)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(problem)
    return RunLengths(width, height, runs)


def find_coco(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds a COCO file: in its annotation channel, or beside its images."""
    file = find_coco_file(source.annotations)
    return coco_format(file, source) if file else None


def coco_format(file: Path, source: ChannelSource) -> DetectedFormat:
    """A channel whose COCO file is known."""
    read = partial(read_coco, file, source.images, masks=source.masks)
    return DetectedFormat("COCO", file.name, read, empty_image="an entry among its images alone")


def find_coco_file(folder: Folder) -> Path | None:
    """The COCO file in a folder or below it, or None.

    Of many ``.json`` files only the largest few are looked into, and of each only its beginning and its end.

    Raises:
        UserError: there are several.

    """
    candidates = largest_json(folder) | largest_unnamed(folder)
    coco_files = sorted(name for name, path in candidates.items() if _is_coco(folder, path))
    in_usual_place = [name for name in coco_files if _USUAL_PLACE.fullmatch(name)]
    if len(coco_files) > 1 and len(in_usual_place) == 1:
        others = ", ".join(name for name in coco_files if name not in in_usual_place)
        log.warning("of the COCO files %s is read, and not %s", in_usual_place[0], others)
        coco_files = in_usual_place
    if len(coco_files) > 1:
        raise UserError(
            f"channel {folder.root.name} holds several COCO files ({', '.join(coco_files)}): keep one in "
            "each channel, or give one in the channel train_annotation or validation_annotation (for "
            "`inspect`: --annotations)"
        )
    return candidates[coco_files[0]] if coco_files else None


def _is_coco(folder: Folder, path: Path) -> bool:
    if folder.ask(kind_of, path) or not folder.ask(_looks_like_coco, path):
        return False
    # a manifest's lines may say more of their images, under such keys
    return not folder.ask(format_of_lines, path)


def _looks_like_coco(path: Path) -> bool:
    """By keys that an annotation file of one image does not have."""
    try:
        with open_text(path) as file:
            content = file.read(PEEK)
            if not content.lstrip().startswith(b"{"):
                return False
            size = file.seek(0, os.SEEK_END)
            file.seek(max(PEEK, size - PEEK))
            content += file.read()
    except (OSError, UserError):
        return False
    # Of a large file the key "images" itself may stand in the middle.
    keys = rb"images" if size <= 2 * PEEK else rb"images|image_id|file_name"
    return re.search(rb'"(?:' + keys + rb')"\s*:', content) is not None


def read_coco(file: Path, images: Folder, *, masks: bool = False) -> ParsedChannel:
    """Read a COCO file; its images are looked for beside it, and then anywhere below ``images``.

    Crowds are kept as ignored boxes. Boxes are float pixels ``x, y, width, height`` from the top left; where
    an annotation has none, the box around its polygons or mask is taken. With ``masks`` these are kept.

    Raises:
        UserError: the file is not JSON, not COCO, or contradicts itself; the message names file and entry.

    """
    try:
        return _parse(*_load(file), images, _beside(file, images.root), masks=masks)
    except (TypeError, ValueError, AttributeError, OverflowError, msgspec.ValidationError) as error:
        raise UserError(f"{file.name} is not a COCO file: {error}") from None


def _beside(file: Path, root: Path) -> str:
    """The folder of a file, relative to the images' folder; "" where it lies elsewhere."""
    folder = file.parent.relative_to(root).as_posix() if file.is_relative_to(root) else "."
    return "" if folder == "." else folder


def _load(file: Path) -> tuple[_File | _PlainFile, LargeText]:
    """Read with msgspec: a million annotations as Python's dictionaries would take a gigabyte."""
    text = LargeText(file)
    try:
        return msgspec.json.decode(text.content, type=_File), text
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass  # Python's reader takes more, such as NaN, and says better what is wrong
    try:
        plain = json.loads(bytes(text.content))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name} is not valid JSON: {error}") from None
    return msgspec.convert(plain, type=_PlainFile), text


def _parse(
    content: _File | _PlainFile, text: LargeText, folder: Folder, beside: str, *, masks: bool
) -> ParsedChannel:
    if not content.categories:
        raise ValueError("it has no categories")
    categories = _in_order(content.categories)
    category_ids = _Ids(_all_given(categories, "id", "categories"), "categories")
    image_ids = _Ids(_all_given(content.images, "id", "images"), "images")
    objects = _Objects(masks=masks)
    for number, annotation in enumerate(_annotations(content, text, outlined=masks)):
        objects.add(number, annotation, image_ids, category_ids)
    targets, ends = objects.by_image(len(content.images))
    examples = []
    names = [str(name) for name in _all_given(content.images, "file_name", "images")]
    alike = Counter(map(_base, names))
    for index, (image, start, end) in enumerate(zip(content.images, [0, *ends], ends, strict=False)):
        name = names[index]
        image_name = folder.find_image(name, beside)
        if image_name is None and alike[_base(name)] == 1:  # no other entry may mean a file elsewhere
            image_name = folder.find_image_called(name)
        path = folder.files[image_name] if image_name else None
        if path is None and name.startswith(STUDIO_ADDRESS):  # as Label Studio's converter leaves it
            path = find_addressed(folder, name)
        own = targets.select(slice(start, end))
        unread = tuple(objects.unread.get(index, ()))
        of_masks = tuple(objects.unread_masks.get(index, ()))
        is_named = image.file_name is not None
        problem = _NOT_FOUND if is_named else "its file_name is null"
        examples.append(
            RawExample(
                shortened(name) if is_named else f"images[{index}]",
                path,
                _size(image),
                own,
                problem="" if path else problem,
                unread=unread,
                unread_masks=of_masks,
            )
        )
    _check_files(examples)
    return _with_classes(examples, categories)


def _base(name: str) -> str:
    return re.split(r"[/\\]", name)[-1]


def _size(image: _Image) -> tuple[int, int] | None:
    """Width and height, where both are known."""
    sides = [
        as_number(side or 0, f"image {quoted(image.file_name)} has the {what}")
        for side, what in ((image.width, "width"), (image.height, "height"))
    ]
    return (int(sides[0]), int(sides[1])) if all(sides) else None


def _annotations(
    content: _File | _PlainFile, text: LargeText, *, outlined: bool
) -> Iterator[_CocoAnnotation]:
    """Each of them once: what has been given is forgotten, and so are its bytes."""
    if isinstance(content, _PlainFile):
        yield from content.annotations or []
        return
    rows, content.annotations = content.annotations or [], None
    rows.reverse()
    count = len(rows)
    while rows:
        raw = rows.pop()
        try:
            row = _decode_outlined(raw) if outlined else _decode(raw)
            yield _decode_outlined(raw) if not outlined and _without_box(row) else row
        except msgspec.ValidationError as error:
            raise ValueError(f"{error} at `$.annotations[{count - len(rows) - 1}]`") from None
        text.done(memoryview(raw).nbytes)  # in their order, so that what follows lies behind


def _in_order(categories: Sequence[_Category]) -> list[_Category]:
    """By their ids, where these are numbers; ids that are other texts say nothing of an order."""
    try:
        return sorted(categories, key=lambda category: float(category.id))
    except (TypeError, ValueError, OverflowError):
        return list(categories)


def _class_name(category: _Category) -> str:
    name = category.name
    if name is msgspec.UNSET:
        raise ValueError(f"the category {quoted(category.id)}: the key 'name' is missing")
    if name is None or not str(name).strip():
        raise ValueError(f"the category {quoted(category.id)} has no name: {quoted(name)}")
    return str(name)


def _with_classes(examples: list[RawExample], categories: Sequence[_Category]) -> ParsedChannel:
    """Classes by the names of the categories.

    Roboflow's first category is the project, which is the others' supercategory and has no object. Where it
    has the name of another one, it is left out; else whether it is a class shows when all channels are known.
    """
    names = [_class_name(category) for category in categories]
    used = ParsedChannel(examples).used
    parents = Counter(str(each.supercategory) for each in categories if each.supercategory is not None)
    grouped = any(each.supercategory != _NO_GROUP for each in categories)
    groups = {
        index
        for index, (name, own) in enumerate(
            zip(names, [each.supercategory for each in categories], strict=True)
        )
        if index not in used and (parents[name] > (own == name) or (grouped and own == _NO_GROUP))
    }
    kept = [index for index in range(len(names)) if index not in groups or names.count(names[index]) == 1]
    for index in sorted(set(range(len(names))) - set(kept)):
        log.info(
            "the category %r (id %s) is left out: it has no object, and the name of another one",
            names[index],
            categories[index].id,
        )
    classes = tuple(names[index] for index in kept)
    if len(set(classes)) < len(classes):
        raise ValueError(f"two of its categories have the same name, of {', '.join(classes)}")
    if len(kept) < len(names):
        table = np.full(len(names), -1, np.int64)
        table[kept] = np.arange(len(kept))
        examples = [example.with_labels(table[example.targets.labels]) for example in examples]
    return ParsedChannel(examples, classes, groups=frozenset(names[index] for index in groups & set(kept)))


def _all_given(entries: Sequence[_Category] | Sequence[_Image], key: str, what: str) -> list[Any]:
    return [_given(getattr(entry, key), key, what, number) for number, entry in enumerate(entries)]


def _given(value: Any, key: str, what: str, number: int) -> Any:
    """A value of the ``number``-th entry of a list; ``what`` they are, for messages."""
    if value is msgspec.UNSET:
        raise ValueError(f"{what}[{number}]: the key {key!r} is missing")
    return value


def _check_files(examples: list[RawExample]) -> None:
    first: dict[Path, str] = {}
    for example in examples:
        if example.path is not None and example.path in first:
            raise ValueError(f"two images are the same file: {first[example.path]} and {example.key}")
        if example.path is not None:
            first[example.path] = example.key
