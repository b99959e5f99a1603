"""What is not plausible in a channel as a whole, though each of its boxes could be right."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import numpy as np

from tilewise.data.records import Records

MAX_TINY, MAX_TINY_AT_ALL = 0.01, 0.25
"""More boxes below a pixel than the first share are doubtful, more than the second a fault."""

MAX_BEYOND, MAX_BEYOND_AT_ALL = 0.05, 0.5
"""More boxes than the first share that reach beyond their image are doubtful, than the second a fault."""

MAX_ALIKE, MIN_BOXES = 0.5, 8
"""More boxes than this share at the same place are doubtful. With fewer boxes than that nothing is."""

_SPLITS = {
    "train": "train",
    "training": "train",
    "train2017": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "val2017": "validation",
    "test": "test",
    "testing": "test",
}
"""What folders of exports are called."""

_PLACES = 1 << 12  # of a side, that are told apart


def implausible(records: Records, clipped: int) -> tuple[list[str], list[str]]:
    """Faults, with which nothing could be learnt, and doubts about the boxes of a channel, in words.

    Args:
        records: those that can be used, with boxes clipped to their images.
        clipped: how many boxes reached beyond their image.

    """
    count = len(records.targets)
    if count < MIN_BOXES:
        return [], []
    faults, doubts = [], []
    tiny = int((records.object_sides < 1).any(axis=1).sum())
    if tiny > MAX_TINY * count:
        words = f"{tiny} of {count} boxes are less than a pixel wide or high"
        if tiny > MAX_TINY_AT_ALL * count:
            faults.append(
                f"{words}: give all of them in pixels, or all as fractions, as their format has them"
            )
        else:
            doubts.append(f"{words}: are they in pixels, as the others are?")
    if clipped > MAX_BEYOND * count:
        words = f"{clipped} of {count} boxes reach beyond their image"
        why = "of images of another size, or corners where width and height are expected"
        if clipped > MAX_BEYOND_AT_ALL * count:
            faults.append(f"{words}: they are probably {why}; give them as their format has them")
        else:
            doubts.append(f"{words} and are cut at its border: are they {why}?")
    alike = _alike(records)
    if len(records) > 1 and alike > MAX_ALIKE * count:
        doubts.append(f"{alike} of {count} boxes are at the very same place of their images: is that meant?")
    return faults, doubts


def _alike(records: Records) -> int:
    """How many boxes the commonest place in an image has."""
    sizes = np.repeat(records.sizes, records.object_counts, axis=0)
    places = np.rint(records.targets.boxes / np.concatenate([sizes, sizes], axis=1) * (_PLACES - 1))
    numbers = places.astype(np.int64) @ np.asarray([_PLACES**3, _PLACES**2, _PLACES, 1], np.int64)
    return int(np.unique(numbers, return_counts=True)[1].max())


def several_splits(keys: Iterable[str], what: str = "images") -> str | None:
    """A sentence where images lie in folders that are called train and validation, as in an export.

    Args:
        keys: the images' names in their channel, with folders.
        what: they are.

    """
    folders: dict[int, set[str]] = {}
    for parents in {key.rpartition("/")[0] for key in keys}:
        for depth, folder in enumerate(parents.split("/")):
            folders.setdefault(depth, set()).add(folder)
    for there in folders.values():
        named = [folder for folder in sorted(there) if folder.lower() in _SPLITS]
        if len({_SPLITS[folder.lower()] for folder in named}) > 1:
            return (
                f"its {what} lie in the folders {', '.join(named)}, and all of them count as this channel's: "
                "if they are the splits of one export, give each as a channel of its own (train, validation, "
                "test)"
            )
    return None


def spelt_alike(classes: Iterable[str]) -> list[str]:
    """A sentence for each group of classes whose names differ by case, spaces, hyphens or underscores."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault(re.sub(r"[\s_-]+", "", plain) or plain, []).append(name)
    return [
        f"the classes {', '.join(map(repr, names))} differ by spelling only: are they one class?"
        for names in groups.values()
        if len(names) > 1
    ]
