"""The images that a command is given: files, and folders of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tilewise.data.decoding.stored_samples import DecodeError
from tilewise.data.files.folder import Folder
from tilewise.errors import UserError

DETECTIONS_PICTURE, CLASSES_PICTURE = "-detections.png", "-classes.png"
"""How the names of the pictures end that ``predict`` writes, of a detector and of a classifier."""

_ANSWER = b'{"image": '

Found = TypeVar("Found")
Source = TypeVar("Source", bound=bytes | Path)


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """The images by name: below a folder their path in it, else the file's own name.

    The pictures that ``predict`` has left in a folder are passed over, and counted.

    Raises:
        UserError: there is none, a path does not exist, a name is not UTF-8, or two images have one name.

    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        found += _images_below(path) if path.is_dir() else [(path.name, path)]
    if not found:
        raise UserError(f"no image in {', '.join(map(str, paths))}")
    for name, path in found:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of the file {os.fsencode(path)!r} is not UTF-8: rename it") from None
    twice = sorted(name for name, count in Counter(name for name, _ in found).items() if count > 1)
    if twice:
        raise UserError(
            f"several images are named {', '.join(twice[:5])}: give the folder that holds them all"
        )
    return dict(found)


def _images_below(folder: Path) -> list[tuple[str, Path]]:
    images = list(Folder(folder).images.items())
    kept = [(name, path) for name, path in images if not _is_picture_of_predict(path)]
    if len(kept) < len(images):
        print(f"{folder}: {len(images) - len(kept)} pictures of an earlier tilewise predict passed over")
    return kept


def _is_picture_of_predict(path: Path) -> bool:
    """Whether a picture has the name of one, and the answer beside it that was written with it."""
    if not path.name.endswith((DETECTIONS_PICTURE, CLASSES_PICTURE)):
        return False
    try:
        with path.with_suffix(".json").open("rb") as file:
            return file.read(len(_ANSWER)) == _ANSWER
    except OSError:
        return False


def predict_each(
    images: Mapping[str, Source], predict: Callable[[Source], Found]
) -> Iterator[tuple[str, Found]]:
    """Each image's name, and what is said of it; a damaged one is named and left out.

    Raises:
        UserError: all are damaged.

    """
    left_out: list[str] = []
    for name, path in images.items():
        try:
            yield name, predict(path)
        except DecodeError as error:
            left_out.append(f"{name}: {error}")
            print(f"left out {left_out[-1]}")
    if len(left_out) == len(images):
        raise UserError(f"none of the images can be read: {left_out[0]}")


def check_place(path: Path, *, folder: bool = False) -> None:
    """Make sure that a file, or a folder, can be written there, before hours are spent on its content.

    Raises:
        UserError: it cannot.

    """
    if not folder and path.is_dir():
        raise UserError(f"--out {path} is a folder: give the name of a file")
    place = path if folder else path.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}") from None
    if not os.access(place, os.W_OK):
        raise UserError(f"--out {path} cannot be written: {place} is read-only")
