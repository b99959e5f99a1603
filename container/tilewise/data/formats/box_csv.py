"""CSV files with a row for each box, as TensorFlow's tutorials, VoTT, DeepForest and Kaggle have it.

Specifications: TensorFlow's ``xml_to_csv.py`` (Roboflow's "TensorFlow CSV"); VoTT's ``csv.ts``; DeepForest's
documentation, "Training data"; keras-retinanet's README, "CSV datasets"; Kaggle's Global Wheat Detection.
"""

from __future__ import annotations

import ast
import csv
import io
import logging
import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tilewise.arrays import Array
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
from tilewise.data.files.exports import few_of, kind_of
from tilewise.data.files.folder import Folder
from tilewise.data.files.text_files import csv_reader, open_text
from tilewise.data.outlines import ONLY_CLASS, ClassNumbers, known_size
from tilewise.data.quoting import as_number, quoted, some
from tilewise.errors import UserError
from tilewise.targets import Targets

log = logging.getLogger(__name__)

BOX_CSV = "a CSV file of boxes"

IMAGE = ("filename", "image", "imagepath", "imagename", "imageid", "path", "img", "file")
CLASS = (
    *("class", "label", "classname", "labelname", "category", "categoryname", "name"),
    *("classid", "labelid", "categoryid"),
)
IGNORED = ("difficult", "iscrowd", "isgroupof", "ignore")
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
SIDES = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("left", "top", "width", "height"))
"""Left, top, width and height."""
LIST = ("bbox",)
"""The same as one cell: ``[834.0, 222.0, 56.0, 36.0]``."""


@dataclass(frozen=True)
class Columns:
    """Where a row has what; None for what it has not.

    Attributes:
        image: the image's name.
        label: the class's.
        box: four columns, or the one of a list.
        sides: whether the box is left, top, width and height, not two corners.
        size: the image's width and height.
        ignored: whether the box is neither object nor background.
        titled: whether the first row is no box but titles.
        count: of columns.

    """

    image: int
    label: int | None
    box: tuple[int, ...]
    sides: bool = False
    size: tuple[int, int] | None = None
    ignored: int | None = None
    titled: bool = True
    count: int = 6


@dataclass
class _Rows:
    """The rows of one image."""

    where: str
    size: tuple[int, int] | None = None
    boxes: array[float] = field(default_factory=lambda: array("d"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    ignored: bytearray = field(default_factory=bytearray)
    unread: list[str] = field(default_factory=list)


def find_box_csv(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds such files: one of the first few, or of the largest."""
    folder = source.annotations
    every = folder.with_suffix(".csv")
    if not any(_columns(folder, path) for path in few_of(folder, ".csv")):
        return None
    files = {name: path for name, path in every.items() if _columns(folder, path)}
    others = [name for name in every if name not in files]
    read = partial(read_box_csv, files, source.images, source.name, others=others)
    return DetectedFormat(
        BOX_CSV, some(files), read, empty_image="a row with its name and empty cells for its box"
    )


def read_box_csv(
    files: Mapping[str, Path], folder: Folder, channel: str, *, others: Sequence[str] = ()
) -> ParsedChannel:
    """Read them all; classes are in alphabetical order.

    A row whose box is empty is an image without objects.

    Args:
        files: by their names.
        folder: holds the images.
        channel: whose they are, for messages.
        others: CSV files that are passed over.

    Raises:
        UserError: a file is no CSV, or two files name the same image.

    """
    numbers = ClassNumbers()
    examples = [example for name, path in files.items() for example in _examples(name, path, folder, numbers)]
    require_different_images(examples)
    if others:
        log.info("channel %s: %s hold no boxes and are passed over", channel, some(others))
    return by_name(examples, list(numbers))


def columns_of(row: Sequence[str]) -> Columns | None:
    """The columns of a file whose first row this is; None where it has no image and box."""
    at: dict[str, int] = {}
    for index, title in enumerate(row):
        at.setdefault(re.sub(r"[\s_-]", "", title.lower()), index)
    image, label, ignored = (
        next((at[name] for name in names if name in at), None) for names in (IMAGE, CLASS, IGNORED)
    )
    for names in (*CORNERS, *SIDES, LIST):
        if image is not None and at.keys() >= set(names):
            size = (at["width"], at["height"]) if at.keys() - set(names) >= {"width", "height"} else None
            box = tuple(at[name] for name in names)
            return Columns(image, label, box, names not in CORNERS, size, ignored, count=len(row))
    if len(row) == 6 and row[0].strip() and (not any(row[1:]) or (row[5] and all(map(_is_number, row[1:5])))):
        return Columns(0, 5, (1, 2, 3, 4), titled=False)  # keras-retinanet's have no titles
    return None


def _columns(folder: Folder, path: Path) -> Columns | None:
    found: Columns | None = folder.ask(_columns_of_file, path)
    return found


def _columns_of_file(path: Path) -> Columns | None:
    if kind_of(path):  # another tool's
        return None
    try:
        return columns_of(next(_rows_of(path), (0, []))[1])
    except (UnicodeDecodeError, csv.Error, UserError):
        return None


def _rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and rows."""
    with open_text(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        rows = csv_reader(text)
        yield from ((rows.line_num, row) for row in rows if any(map(str.strip, row)))


def _examples(name: str, path: Path, folder: Folder, numbers: ClassNumbers) -> list[RawExample]:
    images: dict[str, _Rows] = {}
    columns: Columns | None = None
    try:
        for line, row in _rows_of(path):
            if columns is None:
                columns = columns_of(row)
                assert columns is not None
                if columns.label is None:
                    log.warning(
                        "%s has no column for the class, such as class or label (its columns are %s): all of "
                        "its objects are of one class, %s",
                        name,
                        some(row, 12),
                        ONLY_CLASS,
                    )
                if columns.titled:
                    continue
            _add(f"{name} line {line}", row, columns, images, numbers)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} is no CSV file in UTF-8: {error}") from None
    return [_example(image, rows, folder) for image, rows in images.items()]


def _add(
    where: str, row: list[str], columns: Columns, images: dict[str, _Rows], numbers: ClassNumbers
) -> None:
    if len(row) != columns.count:
        image = row[columns.image].strip() if len(row) > columns.image else ""
        problem = f"it has {len(row)} cells, and the first row {columns.count}"
        images.setdefault(image, _Rows(where)).unread.append(f"{where}: {problem}")
        return
    rows = images.setdefault(row[columns.image].strip(), _Rows(where))
    cells = [row[index].strip() for index in columns.box]
    try:
        if columns.size and rows.size is None:
            rows.size = known_size(*(row[index] for index in columns.size))
        if not any(cells):
            return
        box = _box(cells, sides=columns.sides)
        label = ONLY_CLASS if columns.label is None else row[columns.label].strip()
        if not label:
            raise ValueError("its class is empty")
    except ValueError as error:
        rows.unread.append(f"{where}: {error}")
        return
    rows.boxes.extend(box)
    rows.labels.append(numbers[label])
    rows.ignored.append(columns.ignored is not None and row[columns.ignored].strip().lower() in ("1", "true"))


def _box(cells: list[str], *, sides: bool) -> tuple[float, float, float, float]:
    if len(cells) == 1:
        try:
            cells = list(map(str, ast.literal_eval(cells[0])))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError(f"its box is {quoted(cells[0])}, not a list of four numbers") from None
        if len(cells) != 4:
            raise ValueError(f"its box has {len(cells)} numbers, not 4")
    first, second, third, fourth = (as_number(cell, "its box has") for cell in cells)
    return (first, second, first + third, second + fourth) if sides else (first, second, third, fourth)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _example(name: str, rows: _Rows, folder: Folder) -> RawExample:
    key = f"{name} ({rows.where})"
    found = folder.find_image(name) or folder.find_image_like(name) if name else None
    if found is None:
        problem = f"its image {name} is not in the channel, or not only once" if name else "it names no image"
        return unusable(key, None, problem)
    targets: Targets[Array] = Targets(
        boxes_from_corners(np.asarray(rows.boxes)),
        np.asarray(rows.labels, np.int64),
        np.frombuffer(bytes(rows.ignored), np.bool_),
    )
    return RawExample(key, folder.files[found], rows.size, targets, unread=tuple(rows.unread))
