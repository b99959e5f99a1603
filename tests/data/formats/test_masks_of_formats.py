"""What each format says of masks, and what is wrong with some."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from tilewise.data.channel import parse_channel
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import make_records
from tilewise.data.records import Records
from tilewise.errors import UserError
from tilewise.masks import MASKS, Masks
from written_channel import WrittenChannel

# pycocotools 2.0.11 hands NumPy 2 an array without its keyword copy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WANTED = frozenset({MASKS})
RING: list[float] = [10, 10, 20, 10, 20, 20, 10, 20]
OTHER: list[float] = [25, 15, 35, 15, 35, 25, 25, 25]
HOLE: list[float] = [12, 12, 16, 12, 16, 16, 12, 16]


def read(channel: WrittenChannel, fields: frozenset[str] = WANTED) -> tuple[Records, ChannelIssues]:
    issues = ChannelIssues("train")
    return make_records(parse_channel("train", channel.folders, fields=fields).examples, issues), issues


def areas(records: Records) -> list[int]:
    """Pixels of each mask, 0 for an object without one."""
    masks = records.targets.fields[MASKS]
    assert isinstance(masks, Masks)
    return [0 if one is None else int(coco_masks.area(one)) for one in masks.encoded(40, 30)]


def write_coco(channel: WrittenChannel, *segmentations: Any, box: Any = (10, 10, 10, 10)) -> None:
    """An object for each segmentation; those that are None have none."""
    channel.image("a.png")
    annotations = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": list(box), "iscrowd": 0, "area": 1}
        | ({} if one is None else {"segmentation": one})
        for number, one in enumerate(segmentations)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "ant"}],
        "annotations": annotations,
    }
    channel.write("coco.json", json.dumps(content))


def run_lengths(width: int = 40, height: int = 30, *, compressed: bool) -> dict[str, Any]:
    frame = np.zeros((height, width), np.uint8)
    frame[10:20, 10:20] = 1
    if compressed:
        packed = coco_masks.encode(np.asfortranarray(frame))
        return {"size": [height, width], "counts": packed["counts"].decode()}
    flat = frame.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    return {"size": [height, width], "counts": np.diff([0, *changes, len(flat)]).tolist()}


def test_coco__polygons_and_run_lengths_in_either_form(channel: WrittenChannel) -> None:
    write_coco(channel, [RING], run_lengths(compressed=True), run_lengths(compressed=False), None, [])
    records, issues = read(channel)
    # same box and label: the later ones repeat the first
    assert areas(records) == [100] and issues.repeated == 4
    write_coco(channel, [RING, HOLE])
    assert areas(read(channel)[0]) == [100]  # COCO unites the parts of an object


def test_coco__an_object_without_a_mask_beside_others(channel: WrittenChannel) -> None:
    channel.image("b.png")
    write_coco(channel, [RING])
    content = json.loads((channel.root / "coco.json").read_text())
    content["images"].append({"id": 2, "file_name": "b.png"})
    content["annotations"].append({"id": 9, "image_id": 2, "category_id": 1, "bbox": [1, 2, 8, 8]})
    channel.write("coco.json", json.dumps(content))
    records, issues = read(channel)
    assert areas(records) == [100, 0] and not issues.masks_dropped
    assert MASKS not in read(channel, frozenset())[0].targets.fields  # a detection job keeps none


BAD = {
    "an odd count": ([[10, 10, 20, 10, 20, 20, 10]], "a polygon .*, not x and y of 3 points or more"),
    "two points": ([[10, 10, 20, 20]], "a polygon .*, not x and y of 3 points or more"),
    "a text": ([[10, 10, "twenty", 10, 20, 20]], 'a polygon with "twenty" .text., not a number'),
    "no points": ([[]], "a polygon .*, not x and y of 3 points or more"),
    "no outline": ("mask.png", 'the segmentation "mask.png"'),
    "empty": ({"size": [30, 40], "counts": [1200]}, "is empty"),
    "a line": ([[10, 10, 20, 10, 15, 10]], "is empty"),
    "outside": ([[110, 110, 120, 110, 120, 120]], "lies outside the image"),
    "another size": (run_lengths(80, 60, compressed=True), "is not of an image of 40 x 30 pixels"),
    "counts that do not add up": ({"size": [30, 40], "counts": [5, 5]}, "not the size and counts of COCO"),
    "another object's": ([OTHER], "does not agree with it: it lies within the box from .25, 15. to .35, 25."),
}


@pytest.mark.parametrize("case", BAD)
def test_coco__a_bad_mask_is_named_and_its_object_keeps_its_box(
    channel: WrittenChannel, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    segmentation, message = BAD[case]
    write_coco(channel, segmentation)
    records, issues = read(channel)
    assert areas(records) == [0] and records.targets.boxes.tolist() == [[10, 10, 20, 20]]
    (reason,) = issues.masks_dropped
    assert re.search(message, reason)
    with caplog.at_level(logging.WARNING):
        read(channel)
    assert "its object keeps its box, without a mask" in caplog.text


def test_coco__a_mask_of_another_size_beyond_the_image_is_not_clipped_too(channel: WrittenChannel) -> None:
    write_coco(channel, {"size": [60, 80], "counts": [0, 4800]}, box=(1, 1, 38, 28))
    _, issues = read(channel)
    assert len(issues.masks_dropped) == 1 and issues.clipped == 0


def test_too_many_bad_masks__refused(channel: WrittenChannel) -> None:
    for number in range(3):
        channel.image(f"{number}.png")
    lines = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [10, 10, 10, 10], "segmentation": [OTHER]}
        for n in range(3)
    ]
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(3)]
    content = {"images": images, "categories": [{"id": 1, "name": "ant"}], "annotations": lines}
    channel.write("coco.json", json.dumps(content))
    with pytest.raises(UserError, match="channel train: 3 of 3 masks cannot be used, more than 5%; fix or"):
        read(channel)
    read(channel, frozenset())  # boxes alone are good


def test_a_polygon_beyond_the_image__cut(channel: WrittenChannel) -> None:
    write_coco(channel, [[10, 10, 20, 10, 20, 45, 10, 45]], box=(10, 10, 10, 35))
    records, issues = read(channel)
    assert areas(records) == [200] and issues.clipped == 1


def azure(channel: WrittenChannel, *items: dict[str, Any]) -> None:
    channel.image("a.png")
    channel.lines({"image_url": "a.png", "label": [{"label": "ant", **item} for item in items]})


def fractions(ring: list[float]) -> list[float]:
    return [value / (30 if index % 2 else 40) for index, value in enumerate(ring)]


def test_azure__segments_are_even_odd(channel: WrittenChannel) -> None:
    box = {"topX": 0.0, "topY": 0.0, "bottomX": 0.25, "bottomY": 0.5}
    closed = [*RING, *RING[:2]]
    azure(
        channel,
        {"polygon": [fractions(closed), fractions(HOLE)], "bbox": "null", "isCrowd": 0},
        {"polygon": [fractions(OTHER)]},
        box,
    )
    records, _ = read(channel)
    assert areas(records) == [84, 100, 0]
    assert records.targets.boxes.tolist() == pytest.approx(
        np.array([[10, 10, 20, 20], [25, 15, 35, 25], [0, 0, 10, 15]])
    )


@pytest.mark.parametrize(
    "polygon", [fractions(RING), [[[x / 40, y / 30] for x, y in zip(RING[::2], RING[1::2], strict=True)]]]
)
def test_azure__forms_of_other_tools(channel: WrittenChannel, polygon: Any) -> None:
    azure(channel, {"polygon": polygon})
    assert areas(read(channel)[0]) == [100]


def test_yolo__lines_of_segmentation(channel: WrittenChannel) -> None:
    channel.image("a.png")
    ring = " ".join(map(str, fractions(RING)))
    channel.write("a.txt", f"0 {ring}\n0 0.5 0.5 0.25 0.2\n")
    assert areas(read(channel)[0]) == [100, 0]


def voc(channel: WrittenChannel, objects: int = 2) -> None:
    channel.image("JPEGImages/a.jpg")
    boxes = [(11, 11, 20, 20), (26, 16, 35, 25), (1, 1, 9, 9)][:objects]
    things = "".join(
        f"<object><name>ant</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for x0, y0, x1, y1 in boxes
    )
    channel.write("Annotations/a.xml", f"<annotation>{things}</annotation>")


def instances(channel: WrittenChannel, name: str = "SegmentationObject/a.png", border: bool = True) -> None:
    pixels = np.zeros((30, 40), np.uint8)
    if border:
        pixels[9:21, 9:21] = 255
    pixels[10:20, 10:20] = 1
    pixels[15:25, 25:35] = 7
    path = channel.root / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("place", ["SegmentationObject/a.png", "masks/a.png"])
def test_voc__values_in_ascending_order_are_the_objects(channel: WrittenChannel, place: str) -> None:
    voc(channel)
    instances(channel, place)
    (channel.root / "SegmentationClass").mkdir()
    Image.new("L", (40, 30)).save(channel.root / "SegmentationClass" / "a.png")
    records, issues = read(channel)
    assert areas(records) == [100, 100] and not issues.left_out


def test_voc__another_number_of_instances(channel: WrittenChannel) -> None:
    voc(channel, objects=1)
    instances(channel)
    records, issues = read(channel)
    assert areas(records) == [0]
    (reason,) = issues.masks_dropped
    assert "SegmentationObject/a.png cannot be used: it has 2 instances, but the XML file 1 objects" in reason


def test_real_masks__are_pycocotools_own(tmp_path: Path) -> None:
    root = Path(__file__).parents[3] / ".." / "shared" / "data" / "nuclei"
    if not root.is_dir():
        pytest.skip("needs ../shared/data/nuclei, which is not there")
    from tilewise.data.read import read_annotated

    parsed = read_annotated("val", root / "images", root / "val_masks.json", fields=WANTED)
    issues = ChannelIssues("val")
    records = make_records(parsed.examples, issues)
    content = json.loads((root / "val_masks.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    expected: dict[str, list[Any]] = {}
    for row in content["annotations"]:
        expected.setdefault(names[row["image_id"]], []).append(row["segmentation"])
    assert len(records) == 19 and len(records.targets) == 2057 and not issues.masks_dropped
    for record in records:
        masks = record.targets.fields[MASKS]
        assert isinstance(masks, Masks)
        for mine, theirs in zip(
            masks.encoded(record.width, record.height), expected[Path(record.key).name], strict=True
        ):
            assert mine is not None
            assert np.array_equal(coco_masks.decode(mine), coco_masks.decode(theirs))


def test_voc__folders_with_files_of_the_same_names_have_masks_of_their_own(channel: WrittenChannel) -> None:
    for folder, number in (("A", 3), ("B", 5)):
        for part in ("JPEGImages", "Annotations", "SegmentationObject"):
            (channel.root / folder / part).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(channel.root / folder / "JPEGImages" / "1.png")
        box = "<xmin>11</xmin><ymin>11</ymin><xmax>20</xmax><ymax>20</ymax>"
        (channel.root / folder / "Annotations" / "1.xml").write_text(
            f"<annotation><object><name>x</name><bndbox>{box}</bndbox></object></annotation>"
        )
        mask = np.zeros((30, 40), np.uint8)
        mask[10:20, 10:20] = np.tri(10, 10, number, np.uint8)
        Image.fromarray(mask).save(channel.root / folder / "SegmentationObject" / "1.png")
    records, issues = read(channel)
    assert areas(records) == [np.tri(10, 10, number).sum() for number in (3, 5)]
    assert not issues.masks_dropped
    for folder in ("A", "B"):  # and nobody knows whose they are
        (channel.root / folder / "SegmentationObject").rename(channel.root / f"masks{folder}")
    with pytest.raises(UserError, match=r"1.xml: its masks may be in masksA/1.png or masksB/1"):
        read(channel)


def test_coco__objects_of_one_box_with_other_masks_are_kept(channel: WrittenChannel) -> None:
    falling, rising = (
        [10, 10, 12, 10, 20, 18, 20, 20, 18, 20, 10, 12],
        [18, 10, 20, 10, 20, 12, 12, 20, 10, 20, 10, 18],
    )
    write_coco(channel, [falling], [rising], [falling])
    records, issues = read(channel)
    assert len(areas(records)) == 2 and issues.repeated == 1


def test_coco__a_polygon_without_a_pixel_is_no_mask(channel: WrittenChannel) -> None:
    write_coco(channel, [[10, 10, 20, 20, 10, 10]])
    records, issues = read(channel)
    assert areas(records) == [0]
    assert "is empty" in issues.masks_dropped[0]
