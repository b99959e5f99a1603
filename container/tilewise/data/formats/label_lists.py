"""Lists of images with their labels: MXNet's ``.lst``, and CSV files with a title line.

Specifications: SageMaker's developer guide, "Image Classification", input in image format (``train_lst``);
MXNet's ``tools/im2rec.py``; Azure Machine Learning's converter for multi-label data.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from tilewise.arrays import Array
from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    by_name,
    require_different_images,
    unusable,
)
from tilewise.data.files.folder import Folder
from tilewise.data.files.text_files import csv_reader, open_text
from tilewise.data.image_labels import names_of, whole_image_targets
from tilewise.data.label_numbers import ImageLabels
from tilewise.data.quoting import quoted, some
from tilewise.errors import UserError
from tilewise.targets import Targets

log = logging.getLogger(__name__)

_MARKS = {",": "commas", ";": "semicolons", "|": "bars"}
"""What may stand between an image's classes in place of spaces."""

LST, CSV = "a list of images (.lst)", "a CSV file of labels"


def find_lst(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel, or its list channel, holds ``.lst`` files: ``im2rec`` leaves them beside records."""
    files = source.annotations.with_suffix(".lst")
    if source.annotations is source.images and source.images.with_suffix(".rec"):
        return None
    read = partial(read_lst, files, source.images, several=source.several_labels)
    return DetectedFormat(LST, some(files), read, empty_image="") if files else None


def find_label_csv(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds CSV files."""
    files = source.annotations.with_suffix(".csv")
    read = partial(read_label_csv, files, source.images, several=source.several_labels)
    return DetectedFormat(CSV, some(files), read, empty_image="") if files else None


def read_lst(files: Mapping[str, Path], folder: Folder, *, several: bool) -> ParsedChannel:
    """Lines of ``index``, class id (or 0 and 1 for each class) and path, separated by tabs.

    Raises:
        UserError: two lines name the same image, or a file is no text.

    """
    kind = ImageLabels(several)
    examples = []
    for where, line in _lines(files):
        cells = line.split("\t")
        if len(cells) < 3:
            problem = f"it has {len(cells)} columns: give index, label and path, separated by tabs"
            examples.append(unusable(where, None, problem))
            continue
        try:
            labels = kind.of_numbers([float(cell) for cell in cells[1:-1]])
        except ValueError as error:
            text = str(error)
            problem = f"its label is no number ({text})" if text.startswith("could not") else text
            name = cells[-1].strip()
            examples.append(unusable(f"{name} ({where})", _find_image(name, folder), problem))
            continue
        examples.append(_example(where, cells[-1].strip(), labels, folder))
    require_different_images(examples)
    return ParsedChannel(examples, kind.classes(some(files)))


def read_label_csv(files: Mapping[str, Path], folder: Folder, *, several: bool) -> ParsedChannel:
    """Rows of a file's name and its class, or with ``several`` its classes.

    The first line of each file is a title. Semicolons or tabs may stand for its commas. Between several
    classes are spaces; or, if any cell of the channel has one, commas, semicolons or bars, and spaces then
    belong to the names. Classes are in alphabetical order.

    Raises:
        UserError: a file has no title, is no CSV, or two rows name the same image.

    """
    numbers: dict[str, int] = {}
    examples = []
    tables = {name: _table(name, path, folder) for name, path in files.items()}
    between = _between_classes(tables) if several else None
    for name, rows in tables.items():
        for number, row in enumerate(rows[1:], 2):
            if not row:
                continue
            where = f"{name} line {number}"
            try:
                if len(row) != len(rows[0]):
                    raise ValueError(f"it has {len(row)} cells, and the title {len(rows[0])}")
                names = names_of(_split(row[1], between) if several else row[1], several=several)
            except ValueError as error:
                examples.append(unusable(where, _find_image(row[0].strip(), folder), str(error)))
                continue
            labels = [numbers.setdefault(each, len(numbers)) for each in names]
            examples.append(_example(where, row[0].strip(), whole_image_targets(labels), folder))
    require_different_images(examples)
    return by_name(examples, list(numbers))


def _table(name: str, path: Path, folder: Folder) -> list[list[str]]:
    with open_text(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            rows = list(csv_reader(text))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{name} is no CSV file in UTF-8: {error}") from None
    if not rows or len(rows[0]) < 2 or folder.find_image(rows[0][0].strip()):
        raise UserError(f"{name}: its first line must be a title, such as filename,label")
    return rows


def _between_classes(tables: Mapping[str, list[list[str]]]) -> str | None:
    """What stands between the classes of an image; None for spaces."""
    cells = {row[1] for rows in tables.values() for row in rows[1:] if len(row) > 1}
    found = next((mark for mark in _MARKS if any(mark in cell for cell in cells)), None)
    if found:
        log.info("%s: %s stand between the classes of an image", some(tables), _MARKS[found])
    return found


def _split(cell: str, between: str | None) -> list[str]:
    """A cell's classes.

    Raises:
        ValueError: it is a list as Python or JSON writes it.

    """
    if cell.strip().startswith("[") and cell.strip().endswith("]"):
        raise ValueError(
            f"its label is {quoted(cell)}: give the names of its classes with spaces or commas between them, "
            "without brackets and quotes"
        )
    return [name for each in cell.split(between) if (name := each.strip())]


def _lines(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    for name, path in files.items():
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode().strip("\r\n")
                except UnicodeDecodeError:
                    raise UserError(f"{name} line {number} is not UTF-8 text") from None
                if text.strip():
                    yield f"{name} line {number}", text


def _example(where: str, name: str, targets: Targets[Array], folder: Folder) -> RawExample:
    key = f"{name} ({where})"
    path = _find_image(name, folder)
    if path is None:
        return unusable(key, None, f"its image {name} is not in the channel, or not only once")
    return RawExample(key, path, None, targets, fractions=True)


def _find_image(name: str, folder: Folder) -> Path | None:
    image = folder.find_image(name) or folder.find_image_called(name)
    return folder.files[image] if image else None
