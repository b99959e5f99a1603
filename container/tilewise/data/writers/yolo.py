"""Images with one text file each, as YOLO has them.

Specification: Ultralytics' documentation, "Object Detection Datasets Overview".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
import yaml

from tilewise.data.records import Record
from tilewise.data.writers.output import Box, Output, check_class_names
from tilewise.data.writers.polygons import even_odd_rings
from tilewise.masks import Shape
from tilewise.rasters import joined


def write_yolo(
    records: Iterable[Record], classes: tuple[str, ...], output: Output, *, masks: bool = False
) -> None:
    """Write ``images/``, ``labels/``, ``data.yaml`` and ``classes.txt``.

    An image without objects has an empty text file. Numbers have all digits that they need: the usual six
    move a box in a large image. With ``masks`` a line is a class and a polygon: parts and holes of an object
    are joined by lines there and back, as Ultralytics' converter does; an object without a mask has the
    polygon of its box.

    Raises:
        UserError: a class's name has a line break or the like.

    """
    check_class_names(classes, "YOLO's classes.txt")
    for name in ("images", "labels"):
        (output.folder / name).mkdir()
    (output.folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    content = {"train": "images", "val": "images", "nc": len(classes), "names": dict(enumerate(classes))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (output.folder / "data.yaml").write_text(text, encoding="utf-8")
    for record in records:
        name = output.put_image(record, "images")
        boxes = output.boxes_of(record, holds_ignored=False)
        if masks:
            shapes = output.masks_of(record, holds_ignored=False)
            lines = [_polygon(box, shape, record) for box, shape in zip(boxes, shapes, strict=True)]
            if missing := sum(shape is None for shape in shapes):
                output.notes["objects without a mask: the polygon is their box"] += missing
        else:
            lines = [_line(box, record) for box in boxes]
        path = output.folder / "labels" / f"{PurePosixPath(name).stem}.txt"
        path.write_text("".join(lines), encoding="utf-8")


def _polygon(box: Box, shape: Shape | None, record: Record) -> str:
    """Class, and the points as fractions of the image's sides."""
    label, xmin, ymin, xmax, ymax, _ = box
    corners = np.array([[xmin, ymin], [xmax, ymin], [xmax, ymax], [xmin, ymax]])
    ring = corners if shape is None else joined(even_odd_rings(shape))
    points = ring / (record.width, record.height)
    return f"{label} {' '.join(f'{value!r}' for value in points.reshape(-1).tolist())}\n"


def _line(box: Box, record: Record) -> str:
    """Class and the box's centre and size as fractions of the image's sides."""
    label, xmin, ymin, xmax, ymax, _ = box
    x, y = (xmin + xmax) / 2 / record.width, (ymin + ymax) / 2 / record.height
    return f"{label} {x!r} {y!r} {(xmax - xmin) / record.width!r} {(ymax - ymin) / record.height!r}\n"
