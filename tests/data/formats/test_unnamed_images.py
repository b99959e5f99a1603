"""Images that lie in a channel, and that its file of all annotations does not name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tilewise.data.read import read_annotated
from written_channel import WrittenChannel

COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12]}],
        "categories": [{"id": 1, "name": "ant"}],
    }
)
VIA = json.dumps(
    {
        "a.jpg1": {
            "filename": "a.jpg",
            "size": 1,
            "regions": [
                {
                    "shape_attributes": {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 12},
                    "region_attributes": {"class": "ant"},
                }
            ],
            "file_attributes": {},
        }
    }
)
BOX = {"class_id": 0, "left": 1, "top": 2, "width": 10, "height": 12}
MANIFEST = json.dumps(
    {"source-ref": "a.jpg", "box": {"annotations": [BOX]}, "box-metadata": {"class-map": {"0": "ant"}}}
)
CORNERS = {"label": "ant", "topX": 0.1, "topY": 0.1, "bottomX": 0.4, "bottomY": 0.5}
AZURE = json.dumps({"image_url": "a.jpg", "label": [CORNERS]})
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><image id="0" name="a.jpg" width="40" height="30">
<box label="ant" source="manual" occluded="0" xtl="1" ytl="2" xbr="11" ybr="14" z_order="0"></box>
</image></annotations>"""
RESULT = {
    "type": "rectanglelabels",
    "value": {"x": 1, "y": 2, "width": 10, "height": 12, "rectanglelabels": ["ant"]},
}
STUDIO = json.dumps([{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"id": 1, "result": [RESULT]}]}])

FILES = {
    "coco.json": (COCO, "an entry among its images alone"),
    "via.json": (VIA, "an entry without regions"),
    "train.manifest": (MANIFEST, "a line with an empty list of annotations"),
    "train.jsonl": (AZURE, "a line with an empty list as its label"),
    "cvat.xml": (CVAT, "an <image> without shapes"),
    "studio.json": (STUDIO, "an annotation without regions"),
    "boxes.csv": ("a.jpg,1,2,11,14,ant\n", "a row with its name and empty cells for its box"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("as_one_file", [False, True])
def test_read__images_that_no_annotation_names_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, *, as_one_file: bool
) -> None:
    channel = WrittenChannel(tmp_path)
    for image in ("a.jpg", "deep/b.jpg", "c.jpg"):
        channel.image(image)
    content, advice = FILES[name]
    path = channel.write(name, content)
    with caplog.at_level(logging.WARNING, "tilewise"):
        parsed = read_annotated("train", channel.root, path if as_one_file else None)
    assert len(parsed.examples) == 1
    (said,) = caplog.messages
    assert said == (
        f"channel train: 2 of its images are not annotated in {name} and not used, such as c.jpg, "
        f"deep/b.jpg: an image without objects needs {advice}"
    )


def test_read__an_image_whose_line_cannot_be_used_is_named_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    channel = WrittenChannel(tmp_path)
    channel.image("a.jpg")
    channel.image("b.jpg")
    failed = {"source-ref": "b.jpg", "box-metadata": {"failure-reason": "nobody came"}}
    channel.lines(MANIFEST, failed, name="train.manifest")
    with caplog.at_level(logging.WARNING, "tilewise"):
        _, second = channel.read().examples
    assert "nobody came" in second.problem and not caplog.messages


def test_read__voc_says_it_of_each_image_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    channel = WrittenChannel(tmp_path)
    channel.image("a.jpg")
    channel.image("b.jpg")
    channel.write("a.xml", "<annotation><filename>a.jpg</filename></annotation>")
    with caplog.at_level(logging.WARNING, "tilewise"):
        _, second = channel.read().examples
    assert second.problem.startswith("no XML file annotates it") and not caplog.messages
