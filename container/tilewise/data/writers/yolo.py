"""Images with one text file each, as YOLO has them.

Specification: Ultralytics' documentation, "Object Detection Datasets Overview".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

import yaml

from tilewise.data.records import Record
from tilewise.data.writers.output import Box, Output, check_class_names


def write_yolo(records: Iterable[Record], classes: tuple[str, ...], output: Output) -> None:
    """Write ``images/``, ``labels/``, ``data.yaml`` and ``classes.txt``.

    An image without objects has an empty text file. Numbers have all digits that they need: the usual six
    move a box in a large image.

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
        lines = [_line(box, record) for box in output.boxes_of(record, holds_ignored=False)]
        path = output.folder / "labels" / f"{PurePosixPath(name).stem}.txt"
        path.write_text("".join(lines), encoding="utf-8")


def _line(box: Box, record: Record) -> str:
    """Class and the box's centre and size as fractions of the image's sides."""
    label, xmin, ymin, xmax, ymax, _ = box
    x, y = (xmin + xmax) / 2 / record.width, (ymin + ymax) / 2 / record.height
    return f"{label} {x!r} {y!r} {(xmax - xmin) / record.width!r} {(ymax - ymin) / record.height!r}\n"
