"""What one request may choose: by the query, by SageMaker's custom attributes, or in its JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from tilewise.errors import UserError
from tilewise.inference.tile_options import read_tile_options
from tilewise.tasks.answers import MaskPictures
from tilewise.tiling.spec import AS_TRAINED, TileOptions

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
NAMES = (
    "threshold",
    "max_detections",
    "classes",
    "tile_grid_size",
    "tile_size",
    "overlap",
    "tta",
    "scores",
    "format",
    "export_as_image",
    "image_type",
)
_TILES = {
    "tile_grid_size": "tile_grid_size",
    "tile_size": "tile_size",
    "overlap": "tile_overlap_ratio",
    "tta": "tta",
}
SMALLEST_TILE, MOST_TILES = 32, 1024
MOST_DETECTIONS = 100_000
IMAGE_TYPES = ("jpg", "png", "bmp")


@dataclass(frozen=True)
class Options:
    """What a request chooses.

    Attributes:
        threshold: the lowest score of what is answered, or ``recommended`` for what the model recommends;
            None for all.
        most: objects of an image that are answered at most, the best ones.
        classes: names or numbers of the classes that are answered; None for all.
        tiles: in place of the model's own.
        form: the answer's; "" for what Accept says.
        calibrated: whether scores are answered as the model was calibrated in validation.
        pictures: masks as pictures in the answer; None for as the model was trained.

    """

    threshold: float | Literal["recommended"] | None = None
    most: int | None = None
    classes: tuple[str, ...] | None = None
    tiles: TileOptions = AS_TRAINED
    form: str = ""
    calibrated: bool = False
    pictures: MaskPictures | None = None

    def labels(self, names: tuple[str, ...]) -> frozenset[int] | None:
        """The labels of the classes that are asked for.

        Raises:
            UserError: the model has no such class.

        """
        if self.classes is None:
            return None
        known = {name: label for label, name in enumerate(names)}
        labels = set()
        for text in self.classes:
            label = known.get(text, int(text) if text.isdecimal() and len(text) < 7 else -1)
            if not 0 <= label < len(names):
                comma = "; give those with a comma by number" if any("," in name for name in names) else ""
                raise UserError(f"classes={text}: the model's classes are {', '.join(names)}{comma}")
            labels.add(label)
        return frozenset(labels)


def read_attributes(header: str) -> dict[str, str]:
    """The options in SageMaker's custom attributes: ``threshold=0.5;classes=ant,bee``.

    The header may also be meant for others, with a trace's id, for instance: what is no option of ours is
    left alone, unless it looks like one that is misspelt.

    Raises:
        UserError: it does.

    """
    options: dict[str, str] = {}
    for part in re.split("[;&]", header):
        name, equals, value = (text.strip() for text in part.partition("="))
        if equals and name in NAMES:
            options[name] = f"{options[name]},{value}" if name in options else value
        elif equals and (meant := get_close_matches(name.lower(), NAMES, n=1, cutoff=0.75)):
            raise UserError(f"{ATTRIBUTES}: there is no {name}: {meant[0]} is meant?")
        elif (word := re.split(r"[\s:]", name, maxsplit=1)[0]) in NAMES:
            raise UserError(f"{ATTRIBUTES}: {word} has no value: write {word}=…")
    return options


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse options that there are not.

    Raises:
        UserError: one of the names is none.

    """
    for name in names:
        if name not in NAMES:
            raise UserError(f"{where} has {name!r}: possible are {', '.join(NAMES)}")


def read_options(texts: Mapping[str, Any], forms: Iterable[str]) -> Options:
    """Read what a request chooses.

    Args:
        texts: by name; an empty one is not given.
        forms: the names that ``format`` may have.

    Raises:
        UserError: a value is wrong; the message says what is possible.

    """
    given = {name: _text(value) for name, value in texts.items()}
    form = given.get("format", "")
    if form and form not in forms:
        raise UserError(f"format={form}: possible are {', '.join(forms)}")
    classes = _classes(texts.get("classes"))
    return Options(
        threshold=_threshold(given.get("threshold", "")),
        most=_whole(given, "max_detections", 1, MOST_DETECTIONS),
        classes=classes or None,
        tiles=_tiles(given),
        form=form,
        calibrated=_calibrated(given.get("scores", "")),
        pictures=_pictures(given),
    )


def _text(value: Any) -> str:
    """A value of JSON or of a query, as text."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value).strip()


def _classes(value: Any) -> tuple[str, ...]:
    """The classes of a list, whose names may have commas, or of a text with commas between them."""
    parts = [_text(part) for part in value] if isinstance(value, list | tuple) else _text(value).split(",")
    return tuple(part.strip() for part in parts if part.strip())


def _tiles(given: Mapping[str, str]) -> TileOptions:
    texts = {ours: given.get(name, "") for name, ours in _TILES.items()}
    written = {ours: name for name, ours in _TILES.items()}
    tiles = read_tile_options(texts, lambda name: written.get(name, name))
    if tiles.tile_size is not None and tiles.tile_size < SMALLEST_TILE:
        raise UserError(f"tile_size={tiles.tile_size}: at least {SMALLEST_TILE} pixels")
    if tiles.grid is not None and tiles.grid[0] * tiles.grid[1] > MOST_TILES:
        raise UserError(f"tile_grid_size={texts['tile_grid_size']}: at most {MOST_TILES} tiles")
    return tiles


def _calibrated(text: str) -> bool:
    if text not in ("", "model", "calibrated"):
        raise UserError(f"scores={text[:50]}: possible are model, calibrated")
    return text == "calibrated"


def _pictures(given: Mapping[str, str]) -> MaskPictures | None:
    """A type alone asks for pictures, too."""
    wanted, kind = given.get("export_as_image", "").lower(), given.get("image_type", "").lower()
    if wanted not in ("", "0", "1", "false", "true"):
        raise UserError(f"export_as_image={wanted[:50]}: it must be 0, 1, true or false")
    if kind and kind not in IMAGE_TYPES:
        raise UserError(f"image_type={kind[:50]}: possible are {', '.join(IMAGE_TYPES)}")
    return MaskPictures(wanted in ("", "1", "true"), kind) if wanted or kind else None


def _threshold(text: str) -> float | Literal["recommended"] | None:
    if not text:
        return None
    if text == "recommended":
        return "recommended"
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise UserError(f"threshold={text[:50]}: it must be a number from 0 to 1, or recommended")
    return value


def _whole(given: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    text = given.get(name, "")
    if not text:
        return None
    if not (text.isdecimal() and len(text) < 10 and low <= int(text) <= high):
        raise UserError(f"{name}={text[:50]}: it must be a whole number from {low} to {high}")
    return int(text)
