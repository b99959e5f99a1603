"""Images from the air with one text file each, as DOTA and VisDrone have them.

Specifications: DOTA's website, "Annotation format": ``x1 y1 … x4 y4 category difficult``, after lines on the
image itself; VisDrone's toolkits, "DET": ``left,top,width,height,score,category,truncation,occlusion``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tilewise.data.annotations import (
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    by_name,
    require_different_images,
    unusable,
)
from tilewise.data.files.exports import DOTA, VISDRONE, kind_of, some_of
from tilewise.data.files.folder import Folder
from tilewise.data.files.text_files import read_text
from tilewise.data.outlines import (
    ClassNumbers,
    DrawnObject,
    OutlineCounts,
    box_around_outline,
    drawn_example,
    regions_for_all_classes,
)
from tilewise.data.quoting import as_number, quoted, some
from tilewise.errors import UserError

CATEGORIES = (
    "ignored region", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle",
    "bus", "motor", "others",
)  # fmt: skip
"""VisDrone's, by their numbers in the files."""
IGNORED_REGION, OTHERS = CATEGORIES[0], CATEGORIES[-1]
"""Neither objects nor background, as in VisDrone's evaluation."""
_LABEL_FOLDERS = ("labelTxt", "labels", "annotations")


def find_dota(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds DOTA's text files: in its annotation channel, or beside its images."""
    return _find(source, DOTA, _dota)


def find_visdrone(source: ChannelSource) -> DetectedFormat | None:
    """The same of VisDrone's."""
    return _find(source, VISDRONE, _visdrone)


def _find(source: ChannelSource, kind: str, read: _LineReader) -> DetectedFormat | None:
    folder = source.annotations
    found = some_of(folder, kind, ".txt")
    if not found:
        return None
    return DetectedFormat(kind, some(found), partial(read_drone_text, source, kind, read))


def read_drone_text(source: ChannelSource, kind: str, read: _LineReader) -> ParsedChannel:
    """Read images and their text files; classes are in alphabetical order.

    Args:
        source: the channel.
        kind: of the text files; those of another kind that are named like no image are passed over.
        read: what a line says.

    Returns:
        Images without a text file among the examples, as problems.

    Raises:
        UserError: two files are for one image.

    """
    numbers, counts = ClassNumbers(), OutlineCounts()
    examples = [
        example
        for name, path in source.annotations.with_suffix(".txt").items()
        if (example := _example(name, path, source.images, read, numbers))
    ]
    require_different_images(examples)
    if kind == DOTA:
        counts["quadrangles"] = sum(len(example.targets) for example in examples)
    counts.tell(source.name)
    named = {example.path for example in examples}
    hint = "no text file annotates it; an image without objects needs an empty one"
    examples += [
        unusable(name, path, hint) for name, path in source.images.images.items() if path not in named
    ]
    return by_name(*regions_for_all_classes(examples, list(numbers), IGNORED_REGION))


def _example(
    name: str, path: Path, folder: Folder, read: _LineReader, numbers: ClassNumbers
) -> RawExample | None:
    """An example; None for a file of another kind that stands for no image."""
    image = _image_of(name, folder)
    if image is None:
        problem = f"its image {Path(name).stem}.* is not in the channel, or not only once"
        return unusable(name, None, problem) if kind_of(path) in (DOTA, VISDRONE) else None
    try:
        text = read_text(path).decode("utf-8-sig")
    except (UserError, UnicodeDecodeError) as error:
        return unusable(name, folder.files[image], f"not a text file in UTF-8: {error}")
    objects: list[DrawnObject] = []
    unread = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            objects += read(line.strip()) if line.strip() else ()
        except ValueError as error:
            unread.append(f"line {number}: {error}")
    return drawn_example(name, folder.files[image], None, objects=objects, numbers=numbers, unread=unread)


def _image_of(name: str, folder: Folder) -> str | None:
    """The image that a text file is for: ``labelTxt/…`` mirrors ``images/…``, or it lies beside the image."""
    parts = name.split("/")
    mirrored = ["/".join([*parts[:at], "images", *parts[at + 1 :]]) for at in range(len(parts) - 1)]
    likely = [each for each, part in zip(mirrored, parts, strict=False) if part in _LABEL_FOLDERS]
    return next((found for each in (*likely, name) if (found := folder.find_image_like(each))), None)


def _dota(line: str) -> Iterator[DrawnObject]:
    """The object of a line; lines on the image itself have none."""
    cells = line.split()
    if len(cells) < 9 and ":" in cells[0]:  # imagesource:GoogleEarth, gsd:0.146
        return
    if len(cells) not in (9, 10):
        raise ValueError(f"it is {quoted(line)}, not eight coordinates, a class and 0 or 1 for difficult")
    corners = [as_number(cell, "it has the coordinate") for cell in cells[:8]]
    box = box_around_outline(list(zip(corners[::2], corners[1::2], strict=True)), "quadrangle")
    yield DrawnObject(cells[8], box, ignored=cells[9:] not in ([], ["0"]))


def _visdrone(line: str) -> Iterator[DrawnObject]:
    """The object of a line; what the evaluation of VisDrone passes over is to be ignored."""
    cells = line.rstrip(",").split(",")
    if len(cells) != 8:
        raise ValueError(f"it is {quoted(line)}, not eight numbers with commas between them")
    left, top, width, height, score, category = (as_number(cell, "it has") for cell in cells[:6])
    if category not in range(len(CATEGORIES)):
        raise ValueError(f"its category is {quoted(cells[5])}, not one of 0 to {len(CATEGORIES) - 1}")
    name = CATEGORIES[int(category)]
    of_no_class = name in (IGNORED_REGION, OTHERS)
    box = left, top, left + width, top + height
    yield DrawnObject(IGNORED_REGION if of_no_class else name, box, ignored=of_no_class or not score)


_LineReader = Callable[[str], Iterator[DrawnObject]]
