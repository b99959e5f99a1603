"""The outlines that labelling tools draw, and the upright boxes around them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tilewise.arrays import Array
from tilewise.data.annotations import RawExample, boxes_from_corners
from tilewise.data.quoting import as_number, quoted
from tilewise.fields import Corners
from tilewise.targets import Targets

log = logging.getLogger(__name__)

ONLY_CLASS = "object"
"""The one class where nothing says which an object has."""

MAX_GAP = 0.05
"""Between the two ends of a line that is an outline, as a share of the longer side of its box."""


class DrawnObject(NamedTuple):
    """One object of an image: its class's name, the box around it, and whether it is to be ignored."""

    name: str
    box: Corners
    ignored: bool = False


def joined(first: DrawnObject | None, other: DrawnObject) -> DrawnObject:
    """One object of the outlines of two; of the second alone where there is no first."""
    if first is None:
        return other
    (x0, y0, x1, y1), (left, top, right, bottom) = first.box, other.box
    box = min(x0, left), min(y0, top), max(x1, right), max(y1, bottom)
    return DrawnObject(first.name, box, first.ignored or other.ignored)


class OutlineCounts(Counter[str]):
    """How many outlines of each kind ("polygons") became boxes."""

    def tell(self, channel: str) -> None:
        """Say in the log what was made of them."""
        if self:
            kinds = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(self.items()))
            log.info("channel %s: outlines become the upright boxes around them (%s)", channel, kinds)


class ClassNumbers(dict[str, int]):
    """Class name -> its number, in the order in which the names come."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


def drawn_example(
    key: str,
    path: Path,
    size: tuple[int, int] | None,
    *,
    objects: Sequence[DrawnObject],
    numbers: ClassNumbers,
    fractions: bool = False,
    unread: Sequence[str] = (),
) -> RawExample:
    """An example whose labels are the numbers that its objects' names have by then.

    Args:
        key: as :class:`RawExample` has it.
        path: of the image.
        size: the (width, height) that the annotation states.
        objects: those that can be used.
        numbers: of the channel's classes.
        fractions: whether boxes are in fractions of the image's sides.
        unread: what is wrong with the other objects.

    """
    targets: Targets[Array] = Targets(
        boxes_from_corners([each.box for each in objects]),
        np.asarray([numbers[each.name] for each in objects], np.int64),
        np.asarray([each.ignored for each in objects], np.bool_),
    )
    return RawExample(key, path, size, targets, fractions=fractions, unread=tuple(unread))


def regions_for_all_classes(
    examples: list[RawExample], names: list[str], region: str
) -> tuple[list[RawExample], list[str]]:
    """Regions to ignore are of no class: they become one ignored box for each class.

    Args:
        examples: their labels are indices into ``names``.
        names: of the classes, and of these regions.
        region: the name that they have.

    Returns:
        The examples, and the names without that of the regions; both as they were where nothing else is.

    """
    if region not in names or len(names) == 1:
        return examples, names
    label = names.index(region)
    classes = [name for name in names if name != region]
    for index, example in enumerate(examples):
        targets = example.targets
        is_region = targets.labels == label
        objects = replace(targets, labels=targets.labels - (targets.labels > label)).select(~is_region)
        regions = targets.select(is_region)
        spread: list[Targets[Array]] = [
            replace(
                regions,
                labels=np.full(len(regions), number, np.int64),
                ignored=np.ones(len(regions), np.bool_),
            )
            for number in range(len(classes))
        ]
        examples[index] = replace(example, targets=Targets.cat([objects, *spread]))
    return examples, classes


def box_around(points: Any) -> Corners:
    """The box around ``[[x, y], …]``.

    Raises:
        ValueError: there are no such points.

    """
    try:
        x, y = zip(*((float(x), float(y)) for x, y in points), strict=True)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its points are {quoted(points)}, not pairs of x and y") from None
    if not all(map(math.isfinite, (*x, *y))):  # min and max would pass over a NaN
        raise ValueError(f"its points are {quoted(points)}, not all of them finite")
    return min(x), min(y), max(x), max(y)


def box_around_outline(points: Any, kind: str) -> Corners:
    """The same for an outline of an area, which has three points or more."""
    if isinstance(points, Sequence) and len(points) < 3:
        raise ValueError(f"its {kind} has {len(points)} points, which enclose no area")
    return box_around(points)


def box_around_line(points: Any, kind: str) -> Corners:
    """The same for a line, if it ends where it began: many draw the outline of an object so.

    Raises:
        ValueError: it does not, or there are no points.

    """
    x0, y0, x1, y1 = box = box_around(points)
    (first_x, first_y), (last_x, last_y) = points[0], points[-1]
    gap = math.hypot(float(last_x) - float(first_x), float(last_y) - float(first_y))
    if len(points) < 4 or gap > MAX_GAP * max(x1 - x0, y1 - y0):
        raise ValueError(f"it is a {kind}, which has no area: draw a box or a polygon, or delete it")
    return box


def box_around_rotated(box: Corners, degrees: float, pivot: tuple[float, float] | None = None) -> Corners:
    """The box around one that is turned clockwise about a point; None for its own centre."""
    x0, y0, x1, y1 = box
    x, y = pivot or ((x0 + x1) / 2, (y0 + y1) / 2)
    cosine, sine = _direction(degrees)
    corners = [(across - x, down - y) for across in (x0, x1) for down in (y0, y1)]
    return box_around([(x + cosine * a - sine * b, y + sine * a + cosine * b) for a, b in corners])


def box_around_ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float) -> Corners:
    """The box around an ellipse that is turned about its centre."""
    cosine, sine = _direction(degrees)
    half_width = math.hypot(radii[0] * cosine, radii[1] * sine)
    half_height = math.hypot(radii[0] * sine, radii[1] * cosine)
    x, y = centre
    return x - half_width, y - half_height, x + half_width, y + half_height


def _direction(degrees: float) -> tuple[float, float]:
    """Cosine and sine, exact for quarter turns."""
    if not math.isfinite(degrees):
        raise ValueError(f"its rotation is {degrees}, not an angle in degrees")
    quarters, rest = divmod(degrees % 360, 90)
    if rest == 0:
        return ((1, 0), (0, 1), (-1, 0), (0, -1))[int(quarters)]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def number_at(content: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number under a key.

    Args:
        content: of an annotation.
        key: the key.
        default: for a missing one; None where there must be one.

    Raises:
        ValueError: there is none, or something else.

    """
    value = content.get(key)
    if value is None:
        if default is None:
            raise ValueError(f"its {key} is missing")
        return default
    return as_number(value, f"its {key} is")


def name_of_class(value: Any, what: str = "label") -> str:
    """A class's name.

    Raises:
        ValueError: it is empty, or no text.

    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"its {what} is {quoted(value)}, not the name of a class")
    return value.strip()


def known_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height that an annotation states; None where it says nothing, or 0.

    Raises:
        ValueError: they are no whole numbers.

    """
    if not width or not height:
        return None
    try:
        found = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"its image's width and height are {quoted(width)} and {quoted(height)}") from None
    return found if min(found) > 0 else None
