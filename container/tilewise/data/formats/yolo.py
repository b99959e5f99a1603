"""Images with one text file each, as YOLO takes them.

Specification: Darknet's README, "How to train (to detect your custom objects)"; Ultralytics' documentation,
"Object Detection Datasets Overview".
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tilewise.arrays import Array
from tilewise.data.annotations import (
    MAX_FRACTION,
    ChannelSource,
    DetectedFormat,
    ParsedChannel,
    RawExample,
    boxes_from_corners,
    unusable,
)
from tilewise.data.files.exports import MAX_CANDIDATES, kind_of
from tilewise.data.files.folder import Folder
from tilewise.data.files.text_files import read_text
from tilewise.data.quoting import as_number, quoted, some
from tilewise.errors import UserError
from tilewise.masks import MASKS, Masks, Outline
from tilewise.targets import Targets

log = logging.getLogger(__name__)

MAX_CLASS_ID = 2**31


def find_yolo(source: ChannelSource) -> DetectedFormat | None:
    """Whether a channel holds YOLO's text files: at least one of them must stand for an image."""
    files = source.annotations.with_suffix(".txt")
    images = {name: _image_of(name, source.images) for name in files}
    if not any(images.values()):
        return None
    labelled = [name for name, image in images.items() if image]
    folder = source.annotations
    if any(folder.ask(kind_of, folder.files[name]) for name in labelled[:MAX_CANDIDATES]):
        return None
    return DetectedFormat("YOLO text files", some(labelled), partial(read_yolo, source, images))


def _image_of(name: str, folder: Folder) -> str | None:
    """The image that a text file is for: ``labels/…`` mirrors ``images/…``; or it lies beside the image."""
    return next(filter(None, map(folder.find_image_like, _names_like(name))), None)


def _names_like(name: str) -> list[str]:
    mirrored = [re.sub(r"(^|/)labels/", rf"\1{instead}", name) for instead in ("images/", "")]
    return list(dict.fromkeys([*mirrored, name]))


def read_yolo(source: ChannelSource, images: Mapping[str, str | None]) -> ParsedChannel:
    """Read images and their text files.

    Args:
        source: the channel.
        images: the image that each text file stands for, None for none.

    Returns:
        Images without a text file among the examples, as images without objects. Classes by name where the
        channel names them, otherwise mere numbers. Of polygons the boxes around them are taken, and where the
        source asks for masks themselves.

    Raises:
        UserError: two files are for one image, or the classes' names contradict themselves.

    """
    names, keypoints = _class_names(source), _numbers_of_keypoints(source)
    index_of = None if names is None else {number: index for index, number in enumerate(names)}
    label_file: dict[str, str] = {}
    for name, image in images.items():
        if image and label_file.setdefault(image, name) != name:
            both = f"{label_file[image]} and {name}"
            raise UserError(f"channel {source.name}: {both} are for the same image {image}: keep one")
    without_image = [
        name
        for name, image in images.items()
        if image is None and _looks_like_labels(source.annotations.files[name])
    ]
    unclear = _unclear_images(without_image, label_file.keys(), source.images)
    examples = [
        unusable(image, path, f"{unclear[image]} may be for it, or for another image of that name")
        if image in unclear
        else _example(image, path, label_file.get(image), source, index_of, keypoints=keypoints)
        for image, path in source.images.images.items()
    ]
    missing = len(examples) - len(label_file) - len(unclear)
    if missing:
        log.info(
            "channel %s: %d of %d images have no text file: they count as images without objects",
            source.name,
            missing,
            len(examples),
        )
    examples += [
        unusable(name, None, f"its image {Path(name).stem}.* is not in the channel, or not only once")
        for name in without_image
    ]
    if names is None:
        log.warning(
            "channel %s: there is no data.yaml, classes.txt or obj.names, so that its classes are numbers: "
            "put a copy of the export's into the channel",
            source.name,
        )
        return ParsedChannel(examples)
    return ParsedChannel(examples, tuple(names.values()))


def _unclear_images(names: Sequence[str], labelled: Collection[str], folder: Folder) -> dict[str, str]:
    """Images of which a text file may be for one or another, and that file: they may show objects."""
    return {
        image: name
        for name in names
        for like in _names_like(name)
        for image in folder.images_like(like)
        if image not in labelled
    }


def _looks_like_labels(path: Path) -> bool:
    """Of a text file that stands for no image: lists of images, classes and notes begin otherwise."""
    with path.open("rb") as file:
        words = file.readline(4096).split()
    try:
        return len(words) >= 5 and all(math.isfinite(float(word)) for word in words[:5])
    except ValueError:
        return False


def _example(
    image: str,
    path: Path,
    label_file: str | None,
    source: ChannelSource,
    index_of: Mapping[int, int] | None,
    *,
    keypoints: int,
) -> RawExample:
    try:
        content = read_text(source.annotations.files[label_file]) if label_file else b""
        targets = _targets(content, index_of, masks=source.masks, keypoints=keypoints)
    except UserError as error:
        return unusable(image, path, str(error))
    except ValueError as error:
        return unusable(image, path, f"{label_file} {error}")
    return RawExample(image, path, None, targets, fractions=True)


def _targets(
    content: bytes, index_of: Mapping[int, int] | None, *, masks: bool, keypoints: int
) -> Targets[Array]:
    rows, labels = [], []
    outlines: list[Outline | None] = []
    for number, line in enumerate(content.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            labels.append(_label(words[0], index_of))
            numbers = _numbers(words[1:])
            if keypoints and len(numbers) == 4 + keypoints:
                numbers = numbers[:4]
            rows.append(_corners(numbers))
            outlines.append(Outline([np.asarray(numbers).reshape(-1, 2)]) if len(numbers) > 4 else None)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    fields = {MASKS: Masks.of(outlines)} if masks else {}
    ignored = np.zeros(len(labels), np.bool_)
    return Targets(boxes_from_corners(rows), np.asarray(labels, np.int64), ignored, fields)


def _numbers(words: Sequence[bytes]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:  # in words
        return [as_number(word.decode(errors="replace"), "it has") for word in words]


def _label(word: bytes, index_of: Mapping[int, int] | None) -> int:
    try:
        given = float(word)
    except ValueError:
        given = -1
    if not (0 <= given < MAX_CLASS_ID and given.is_integer()):
        hint = ": separate values by blanks" if re.search(rb"\d[,;]", word) else ""
        raise ValueError(f"the class {quoted(word.decode(errors='replace'))} is not 0, 1, 2, …{hint}")
    if index_of is None:
        return int(given)
    if int(given) not in index_of:
        known = f"{len(index_of)} classes from {min(index_of)} to {max(index_of)} have one"
        raise ValueError(f"the class {int(given)} has no name: {known}")
    return index_of[int(given)]


def _corners(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    if len(numbers) == 4:
        x, y, width, height = numbers
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(numbers) == 5:
        raise ValueError(
            "it has 6 numbers, the last one a confidence as predictions have it: give the ground truth"
        )
    elif len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(
            f"it has {len(numbers) + 1} numbers, but a box has 5 (class, centre x, centre y, width, height) "
            "and a polygon 7 or more, an odd count"
        )
    else:
        corners = (min(numbers[0::2]), min(numbers[1::2]), max(numbers[0::2]), max(numbers[1::2]))
    far = max(corners, key=abs)
    if MAX_FRACTION < abs(far) < math.inf:
        raise ValueError(f"its box reaches to {far:g}, not a fraction of its image's width or height")
    return corners


def _descriptions(source: ChannelSource) -> dict[str, Path]:
    """What names the classes, beside images or annotations; else the export's whose ``train/`` this is."""
    suffixes = ".yaml", ".yml", ".names", "classes.txt"
    files = source.images.with_suffix(*suffixes) | source.annotations.with_suffix(*suffixes)
    own = {
        name: path
        for name, path in files.items()
        if path.suffix.lower() != ".txt" or path.name.lower() == "classes.txt"
    }
    of_export = source.annotations.root.parent / "data.yaml"
    return own or ({"../data.yaml": of_export} if of_export.is_file() else {})


def _numbers_of_keypoints(source: ChannelSource) -> int:
    """How many numbers of keypoints follow each box, as a pose data set's YAML says; 0 where none do.

    Without it a line with keypoints looks like a polygon.
    """
    for path in _descriptions(source).values():
        found = re.search(rb"^kpt_shape\s*:\s*\[\s*(\d{1,6})\s*,\s*(\d)\s*\]", read_text(path), re.MULTILINE)
        if found:
            return int(found[1]) * int(found[2])
    return 0


def _class_names(source: ChannelSource) -> dict[int, str] | None:
    """Class id -> name, by id, from the channel's ``data.yaml``, ``classes.txt`` or ``obj.names``."""
    first: tuple[str, dict[int, str]] | None = None
    for name, path in _descriptions(source).items():
        names = _names_in(name, path, source.name)
        if names is not None and first is not None and names != first[1]:
            raise UserError(f"channel {source.name}: {first[0]} and {name} name different classes: keep one")
        if names is not None:
            first = first or (name, names)
    return first[1] if first else None


def _names_in(name: str, path: Path, channel: str) -> dict[int, str] | None:
    who = f"channel {channel}: {name}"
    try:
        text = read_text(path).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{who} is not UTF-8 text: {error}") from None
    if path.suffix.lower() in (".yaml", ".yml"):
        if not re.search(r"(^|[{,])\s*[\"']?names[\"']?\s*:", text, re.MULTILINE):
            return None
        names = _yaml_names(text, who)
    else:
        names = dict(enumerate(line.strip() for line in text.strip().splitlines()))
    if not names or not all(names.values()):
        raise UserError(f"{who} has {'an empty class name' if names else 'no class names'}")
    if len(set(names.values())) < len(names):
        raise UserError(f"{who} has two classes of the same name, of {', '.join(names.values())}")
    return dict(sorted(names.items()))


def _yaml_names(text: str, who: str) -> dict[int, str]:
    try:
        # Every scalar as text: to YAML a class called "no" is false, and "1_0" is 10.
        content: Any = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{who} is not valid YAML: {' '.join(str(error).split())}") from None
    names = content.get("names") if isinstance(content, dict) else None
    name_of: Any = dict(enumerate(names)) if isinstance(names, list) else names
    try:
        pairs = [(int(number), name) for number, name in name_of.items()]
    except (AttributeError, ValueError, TypeError):
        pairs = [(0, None)]
    if not all(isinstance(name, str) and number >= 0 for number, name in pairs):
        raise UserError(f"{who}: its names must be a list of names, or map class ids to names")
    count = content.get("nc", "")
    possible = {len(pairs), 1 + max((number for number, _ in pairs), default=-1)}  # ids may have gaps
    if pairs and count and count not in map(str, possible):
        raise UserError(
            f"{who} names {len(pairs)} classes, but its nc is {count}: correct the one or the other"
        )
    return dict(pairs)
