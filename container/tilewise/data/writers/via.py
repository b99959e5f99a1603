"""Images and one JSON file of annotations as the VGG Image Annotator (VIA), version 2, writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tilewise.data.records import Record
from tilewise.data.writers.output import Output, check_class_names, corner_and_size

ATTRIBUTE = "class"
"""The attribute of the regions that names their class."""


def write_via(records: Iterable[Record], classes: tuple[str, ...], output: Output) -> None:
    """Write ``images/`` and ``via_export_json.json``, which "Annotation / Import" takes.

    The format has no list of classes: those without objects are lost.

    Raises:
        UserError: a class's name has a line break or the like.

    """
    check_class_names(classes, "the VGG Image Annotator")
    (output.folder / "images").mkdir()
    used: set[int] = set()
    with (output.folder / "via_export_json.json").open("x", encoding="utf-8") as file:
        for index, record in enumerate(records):
            name = output.put_image(record, "images")
            used.update(record.targets.labels.tolist())
            size = (output.folder / "images" / name).stat().st_size
            regions = []
            for box in output.boxes_of(record, holds_ignored=False):
                place = dict(zip(("x", "y", "width", "height"), corner_and_size(box), strict=True))
                regions.append(
                    {
                        "shape_attributes": {"name": "rect", **place},
                        "region_attributes": {ATTRIBUTE: classes[box[0]]},
                    }
                )
            entry = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
            text = json.dumps({f"{name}{size}": entry}, ensure_ascii=False)
            file.write(("{" if index == 0 else ",\n") + text[1:-1])
        file.write("}\n")
    output.notes["classes without objects, which VIA has no place for"] += len(classes) - len(used)
