"""The images that a command is given: files, and folders of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tilewise.data.folder import Folder
from tilewise.data.stored_samples import DecodeError
from tilewise.errors import UserError

Found = TypeVar("Found")
Source = TypeVar("Source", bound=bytes | Path)


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """The images by name: below a folder their path in it, else the file's own name.

    Raises:
        UserError: there is none, a path does not exist, or two images have one name.

    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        found += Folder(path).images.items() if path.is_dir() else [(path.name, path)]
    if not found:
        raise UserError(f"no image in {', '.join(map(str, paths))}")
    twice = sorted(name for name, count in Counter(name for name, _ in found).items() if count > 1)
    if twice:
        raise UserError(
            f"several images are named {', '.join(twice[:5])}: give the folder that holds them all"
        )
    return dict(found)


def predict_each(
    images: Mapping[str, Source], predict: Callable[[Source], Found]
) -> Iterator[tuple[str, Found]]:
    """Each image's name, and what is said of it; a damaged one is named and left out.

    Raises:
        UserError: all are damaged.

    """
    left_out = 0
    for name, path in images.items():
        try:
            yield name, predict(path)
        except DecodeError as error:
            left_out += 1
            print(f"left out {name}: {error}")
    if left_out == len(images):
        raise UserError("none of the images can be read")
