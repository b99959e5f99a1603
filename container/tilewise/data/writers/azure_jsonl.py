"""Images and JSON lines as Azure AutoML takes them for object detection and instance segmentation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tilewise.data.records import Record
from tilewise.data.writers.output import Box, Output
from tilewise.data.writers.polygons import even_odd_rings
from tilewise.masks import Shape


def write_azure_jsonl(
    records: Iterable[Record], classes: tuple[str, ...], output: Output, *, name: str
) -> None:
    """Write ``images/`` and ``<name>.jsonl``.

    An object with a mask has its polygons, which by even-odd are the mask; one without has its box's corners.
    All are fractions of the image's sides. ``image_url`` is the path beside the file. The format has no list
    of classes: those without objects are lost.
    """
    (output.folder / "images").mkdir()
    used: set[int] = set()
    with (output.folder / f"{name}.jsonl").open("x", encoding="utf-8") as file:
        for record in records:
            image = output.put_image(record, "images")
            boxes = output.boxes_of(record, holds_ignored=True)
            shapes = output.masks_of(record, holds_ignored=True)
            used.update(record.targets.labels.tolist())
            line = {
                "image_url": f"images/{image}",
                "image_details": {
                    "format": image.rpartition(".")[2].lower(),
                    "width": f"{record.width}px",
                    "height": f"{record.height}px",
                },
                "label": [
                    _item(box, shape, record, classes) for box, shape in zip(boxes, shapes, strict=True)
                ],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    output.notes["classes without objects, which Azure's lines have no place for"] += len(classes) - len(used)


def _item(box: Box, shape: Shape | None, record: Record, classes: tuple[str, ...]) -> dict[str, Any]:
    label, xmin, ymin, xmax, ymax, ignored = box
    item: dict[str, Any] = {"label": classes[label], "isCrowd": int(ignored)}
    if shape is None:
        width, height = record.width, record.height
        corners = {"topX": xmin / width, "topY": ymin / height, "bottomX": xmax / width}
        return item | corners | {"bottomY": ymax / height}
    size = record.width, record.height
    return item | {"polygon": [(ring / size).reshape(-1).tolist() for ring in even_odd_rings(shape)]}
