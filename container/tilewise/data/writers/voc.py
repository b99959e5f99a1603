"""Images with one XML file each, as PASCAL VOC has them.

Specification: the VOC2007 development kit, section "Annotation".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from tilewise.data.records import Record
from tilewise.data.writers.output import DEPTH, Box, Output, check_class_names, number


def write_voc(records: Iterable[Record], classes: tuple[str, ...], output: Output) -> None:
    """Write ``JPEGImages/`` and ``Annotations/``; ignored boxes are ``difficult``.

    Pixels count from 1, and the last one belongs to its box: xmin and ymin are one larger than ours. The
    format has no list of classes: those without objects are lost.

    Raises:
        UserError: a class's name has a line break or the like.

    """
    check_class_names(classes, "VOC's XML")
    for name in ("JPEGImages", "Annotations"):
        (output.folder / name).mkdir()
    used: set[int] = set()
    for record in records:
        name = output.put_image(record, "JPEGImages")
        used.update(record.targets.labels.tolist())
        annotation = _annotation(name, record, output.boxes_of(record, holds_ignored=True), classes)
        ElementTree.indent(annotation)
        path = output.folder / "Annotations" / f"{PurePosixPath(name).stem}.xml"
        path.write_bytes(ElementTree.tostring(annotation, encoding="utf-8", xml_declaration=True))
    output.notes["classes without objects, which VOC has no place for"] += len(classes) - len(used)


def _annotation(name: str, record: Record, boxes: list[Box], classes: tuple[str, ...]) -> Element:
    annotation = Element("annotation")
    _add(annotation, {"folder": "JPEGImages", "filename": name})
    size = {"width": record.width, "height": record.height, "depth": DEPTH}
    _add(SubElement(annotation, "size"), size)
    _add(annotation, {"segmented": 0})
    for label, xmin, ymin, xmax, ymax, ignored in boxes:
        element = SubElement(annotation, "object")
        _add(element, {"name": classes[label], "pose": "Unspecified"})
        _add(element, {"truncated": 0, "difficult": int(ignored)})
        corners = {"xmin": xmin + 1, "ymin": ymin + 1, "xmax": xmax, "ymax": ymax}
        _add(SubElement(element, "bndbox"), {side: number(value) for side, value in corners.items()})
    return annotation


def _add(element: Element, values: Mapping[str, str | int | float]) -> None:
    for name, value in values.items():
        SubElement(element, name).text = str(value)
