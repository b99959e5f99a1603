"""The best and the worst images, reduced, with what was found, missed and imagined in them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from tilewise.arrays import Float64
from tilewise.boxes import object_size
from tilewise.data.decoding.decode import DecodedImage, DecodeError, decode_reduced
from tilewise.data.records import Record
from tilewise.evaluation.analysis import Analysis
from tilewise.evaluation.confusion import FALSE_ALARM, NOT_COUNTED, Outcome
from tilewise.masks import masks_in
from tilewise.rasters import outline
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import View, Window

COUNT = 6
"""So many of the best, and of the worst."""

MAX_SIDE = 900
"""Pixels of the longer side of a picture."""

MAX_BOXES = 1500
"""So many boxes of a kind are drawn in one picture."""

CLOSE_UP_BELOW = 32
"""Where half of an image's objects have a smaller √area in the picture, a part of it is shown closer."""

CLOSE_UP_SIDE = 300
"""Pixels of the image that a close-up is wide."""

SMALLEST_BOX = 9
"""Smaller boxes are drawn larger, in pixels of the picture: an outline must not hide what it shows."""

MAX_POINTS = 60
"""Of the outline of a mask."""

MAX_LABEL = 40
"""Letters of what is written into a picture."""

KINDS = ("truth", "alarm", "missed", "mistaken", "found")
"""In the order in which they are drawn."""


_Box = Sequence[float]
_Rings = Sequence[Float64]


class _Shape(NamedTuple):
    """What is drawn of an object or a detection: its outline where it has a mask, else its box."""

    kind: str
    box: _Box
    text: str
    rings: _Rings = ()


@dataclass(frozen=True)
class Picture:
    """One image of the report.

    Attributes:
        key: names it.
        outcome: what was found in it.
        objects: how many there are to find.
        svg: the image with its boxes; "" where it cannot be shown.
        close_up: a part of it at its own size or larger; "" where that shows no more.
        note: why there is no image.

    """

    key: str
    outcome: Outcome
    objects: int
    svg: str = ""
    close_up: str = ""
    note: str = ""


def best_and_worst(analysis: Analysis, count: int = COUNT) -> tuple[list[int], list[int]]:
    """Indices of the best and of the worst images, by F1 at the score threshold; none is in both.

    Of equal ones, images with more hits are better, and those with more mistakes worse. The best have an
    object, and the worst a mistake.
    """
    f1 = [(one.f1, one) for one in analysis.outcomes]
    ranked = [(value, index, one) for index, (value, one) in enumerate(f1) if value is not None]
    worst = [(value, -_mistakes(one), index) for value, index, one in ranked if value < 1]
    worst_indices = [index for _, _, index in sorted(worst)[: min(count, -(-len(ranked) // 2))]]
    best = [(-value, -one.hits, index) for value, index, one in ranked if one.hits]
    best_indices = [index for _, _, index in sorted(best) if index not in worst_indices][:count]
    return best_indices, worst_indices


def _mistakes(one: Outcome) -> int:
    return int(one.missed.sum()) + one.false_positives + one.mistaken


def make_picture(
    record: Record, one: Outcome, classes: Sequence[str], *, rendering: Rendering = AS_STORED
) -> Picture:
    """Read an image, reduce it and draw its boxes."""
    objects = int((~record.targets.ignored).sum())
    if not record.path.is_file():
        return Picture(record.key, one, objects, note="The image came through a pipe and was not kept.")
    try:
        return _picture(record, one, objects, list(_shapes(record, one, classes)), rendering)
    except (DecodeError, OSError) as error:
        return Picture(record.key, one, objects, note=f"The image cannot be read any more: {error}.")


def _picture(
    record: Record, one: Outcome, objects: int, shapes: Sequence[_Shape], rendering: Rendering
) -> Picture:
    image = decode_reduced(record.source, lambda *_: 1, rendering=rendering)
    size = image.width, image.height
    scale = min(1.0, MAX_SIDE / max(size))
    svg = _svg(image, (0, 0, *size), scale, shapes, _alt(record.key, one))
    sizes = scale * object_size(np.array([shape.box for shape in shapes]).reshape(-1, 4))
    close_up = ""
    if len(sizes) and np.median(sizes) < CLOSE_UP_BELOW and min(size) > CLOSE_UP_SIDE:
        window = _busiest(size, shapes)
        alt = f"A closer look at a part of {record.key}"
        close_up = _svg(image, window, 2 * MAX_SIDE / 3 / CLOSE_UP_SIDE, shapes, alt)
    return Picture(record.key, one, objects, svg, close_up)


def _shapes(record: Record, one: Outcome, classes: Sequence[str]) -> Iterator[_Shape]:
    truth = record.targets
    outlines, found = _outlines(truth), _outlines(one.detections)
    for index, (box, label) in enumerate(zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True)):
        if truth.ignored[index]:
            yield _Shape("truth", box, f"ignored: {classes[label]}", outlines[index])
        elif one.missed[index]:
            yield _Shape("missed", box, f"missed: {classes[label]}", outlines[index])
        else:
            yield _Shape("truth", box, f"annotated: {classes[label]}", outlines[index])
    for index, (box, score, label) in enumerate(one.detections):
        stands_for = int(one.object_of[index])
        name = f"{classes[label]} {score:.2f}"
        if one.right[index]:
            yield _Shape("found", box, f"found: {name}", found[index])
        elif stands_for == FALSE_ALARM:
            yield _Shape("alarm", box, f"false alarm: {name}", found[index])
        elif stands_for != NOT_COUNTED:
            true = classes[int(truth.labels[stands_for])]
            yield _Shape("mistaken", box, f"{true} taken for {name}", found[index])


def _outlines(objects: Any) -> list[_Rings]:
    """The outline of each object's mask in pixels of the image; none where it has no mask."""
    masks = masks_in(objects.fields)
    found: list[_Rings] = []
    if masks is None:
        return [()] * len(objects)
    for index in range(len(masks)):
        grid, (left, top, _, _) = masks.grid(index)
        place = np.array([left, top])
        found.append([ring + place for ring in outline(grid, MAX_POINTS)] if grid.any() else ())
    return found


def _busiest(size: tuple[int, int], shapes: Sequence[_Shape]) -> Window:
    """The window with the most mistakes, and then the most boxes: left, top, right, bottom."""
    side = min(CLOSE_UP_SIDE, *size)
    boxes = np.array([shape.box for shape in shapes])
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    weights = np.array([1 if kind in ("truth", "found") else 10 for kind, *_ in shapes])
    best = (-1.0, 0, 0)
    for x, y in centers[:MAX_BOXES]:
        left = int(min(max(x - side / 2, 0), size[0] - side))
        top = int(min(max(y - side / 2, 0), size[1] - side))
        inside = ((centers >= (left, top)) & (centers < (left + side, top + side))).all(axis=1)
        best = max(best, (float(weights[inside].sum()), left, top))
    _, left, top = best
    return left, top, left + side, top + side


def _svg(image: DecodedImage, window: Window, scale: float, shapes: Sequence[_Shape], alt: str) -> Markup:
    """A window of an image with the boxes in it; the units are pixels of the picture."""
    left, top, right, bottom = window
    width, height = max(1, round(scale * (right - left))), max(1, round(scale * (bottom - top)))
    file = io.BytesIO()
    Image.fromarray(image.show(View(window, (width, height)))).save(file, "JPEG", quality=82, optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    groups = []
    for kind in KINDS:
        moved = [
            shape._replace(
                box=[scale * (value - start) for value, start in zip(box, (left, top) * 2, strict=True)],
                rings=[scale * (ring - np.array([left, top])) for ring in shape.rings],
            )
            for shape in shapes
            if shape.kind == kind
            and (box := shape.box)[0] < right
            and box[2] > left
            and box[1] < bottom
            and box[3] > top
        ][:MAX_BOXES]
        drawn = Markup("").join(map(_drawn, moved))
        if kind == "mistaken":
            drawn += Markup("").join(_label(shape.box, shape.text, width) for shape in moved)
        groups.append(Markup('<g class="{}">{}</g>').format(kind, drawn))
    return Markup(
        '<svg class="picture" viewBox="0 0 {w} {h}" role="img" aria-label="{alt}">'
        '<image width="{w}" height="{h}" href="data:image/jpeg;base64,{data}"/>{groups}</svg>'
    ).format(w=width, h=height, alt=alt, data=data, groups=Markup("").join(groups))


def _drawn(shape: _Shape) -> Markup:
    kind, box, text, rings = shape
    x0, y0, x1, y1 = box
    grow_x, grow_y = (max(1.0, (SMALLEST_BOX - side) / 2) for side in (x1 - x0, y1 - y0))
    if kind != "truth":
        x0, y0, x1, y1 = x0 - grow_x, y0 - grow_y, x1 + grow_x, y1 + grow_y
    path = f"M{x0:.1f} {y0:.1f}H{x1:.1f}V{y1:.1f}H{x0:.1f}Z"
    if rings:
        path = "".join(f"M{'L'.join(f'{x:.1f} {y:.1f}' for x, y in ring.tolist())}Z" for ring in rings)
    if kind == "alarm":  # a small cross on its corner
        path += f"M{x1 - 3:.1f} {y0 - 3:.1f}l6 6m0-6l-6 6"
    return Markup('<path d="{}"><title>{}</title></path>').format(path, text)


def _label(box: _Box, text: str, width: int) -> Markup:
    """The words of a box, above or below it, towards the middle of the picture."""
    size = width / 42
    left, top, right, bottom = box
    from_left = left + right < width
    return Markup('<text x="{:.1f}" y="{:.1f}" font-size="{:.1f}"{}>{}</text>').format(
        left if from_left else right,
        top - 0.4 * size if top > 2 * size else bottom + 1.1 * size,
        size,
        Markup("" if from_left else ' text-anchor="end"'),
        text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…",
    )


def _alt(key: str, one: Outcome) -> str:
    return (
        f"{key}: {one.hits} objects found, {int(one.missed.sum())} missed, {one.mistaken} taken for another "
        f"class, {one.false_positives} false alarms"
    )
