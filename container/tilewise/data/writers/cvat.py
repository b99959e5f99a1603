"""Images and one XML file as "CVAT for images 1.1", which CVAT imports into a task with the same images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from tilewise.data.records import Record
from tilewise.data.writers.output import Box, Output, check_class_names, number


def write_cvat(records: Iterable[Record], classes: tuple[str, ...], output: Output) -> None:
    """Write ``images/`` and ``annotations.xml``; ignored boxes have the attribute ``difficult``.

    Raises:
        UserError: a class's name has a line break or the like.

    """
    check_class_names(classes, "CVAT's XML")
    (output.folder / "images").mkdir()
    with (output.folder / "annotations.xml").open("x", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        _write(_head(classes), file)
        for index, record in enumerate(records):
            sides = {"width": str(record.width), "height": str(record.height)}
            image = Element("image", {"id": str(index), "name": output.put_image(record, "images"), **sides})
            for box in output.boxes_of(record, holds_ignored=True):
                _add(image, box, classes)
            _write(image, file)
        file.write("</annotations>\n")


def _head(classes: tuple[str, ...]) -> Element:
    meta = Element("meta")
    labels = SubElement(SubElement(meta, "task"), "labels")
    for name in classes:
        label = SubElement(labels, "label")
        SubElement(label, "name").text = name
        attribute = SubElement(SubElement(label, "attributes"), "attribute")
        facts = {"name": "difficult", "mutable": "False", "input_type": "checkbox", "default_value": "false"}
        for key, value in (facts | {"values": "false"}).items():
            SubElement(attribute, key).text = value
    return meta


def _add(image: Element, box: Box, classes: tuple[str, ...]) -> None:
    label, xmin, ymin, xmax, ymax, ignored = box
    corners = {"xtl": xmin, "ytl": ymin, "xbr": xmax, "ybr": ymax}
    places = {key: str(number(value)) for key, value in corners.items()}
    facts = {"label": classes[label], "source": "manual", "occluded": "0", **places, "z_order": "0"}
    attribute = SubElement(SubElement(image, "box", facts), "attribute", {"name": "difficult"})
    attribute.text = "true" if ignored else "false"


def _write(element: Element, file: IO[str]) -> None:
    ElementTree.indent(element)
    file.write(f"{ElementTree.tostring(element, encoding='unicode')}\n")
