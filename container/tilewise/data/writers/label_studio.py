"""Images and one JSON file of tasks as Label Studio imports them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from tilewise.data.records import Record
from tilewise.data.writers.output import Box, Output, check_class_names, check_s3_prefix

_TAGS = {"from_name": "label", "to_name": "image"}


def write_label_studio(
    records: Iterable[Record], classes: tuple[str, ...], output: Output, *, s3_prefix: str = ""
) -> None:
    """Write ``images/``, ``tasks.json`` and ``config.xml``, the labelling interface that the tasks need.

    Args:
        records: what to write.
        classes: names by label.
        output: where to.
        s3_prefix: where the folder will lie in S3; without it, it is the root of Label Studio's local files.

    Raises:
        UserError: the prefix is no S3 URI, or a class's name has a line break or the like.

    """
    check_class_names(classes, "Label Studio")
    prefix = check_s3_prefix(s3_prefix) or "/data/local-files/?d="
    (output.folder / "images").mkdir()
    _write_interface(classes, output)
    with (output.folder / "tasks.json").open("x", encoding="utf-8") as file:
        for index, record in enumerate(records):
            name = f"images/{output.put_image(record, 'images')}"
            boxes = output.boxes_of(record, holds_ignored=False)
            results = [_result(number, box, record, classes) for number, box in enumerate(boxes)]
            address = prefix + (name if s3_prefix else quote(name))
            task = {"id": index + 1, "data": {"image": address}, "annotations": [{"result": results}]}
            file.write(("[" if index == 0 else ",\n") + json.dumps(task, ensure_ascii=False))
        file.write("]\n")


def _result(number: int, box: Box, record: Record, classes: tuple[str, ...]) -> dict[str, Any]:
    label, xmin, ymin, xmax, ymax, _ = box
    width, height = record.width, record.height
    place = {"x": xmin / width, "y": ymin / height}
    place |= {"width": (xmax - xmin) / width, "height": (ymax - ymin) / height}
    value = {key: 100 * share for key, share in place.items()}
    return {
        "id": f"box{number}",
        "type": "rectanglelabels",
        **_TAGS,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, "rotation": 0, "rectanglelabels": [classes[label]]},
    }


def _write_interface(classes: tuple[str, ...], output: Output) -> None:
    view = Element("View")
    SubElement(view, "Image", {"name": _TAGS["to_name"], "value": "$image"})
    labels = SubElement(view, "RectangleLabels", {"name": _TAGS["from_name"], "toName": _TAGS["to_name"]})
    for name in classes:
        SubElement(labels, "Label", {"value": name})
    ElementTree.indent(view)
    (output.folder / "config.xml").write_text(ElementTree.tostring(view, encoding="unicode"), "utf-8")
