"""What each writer writes, the readers read back the same."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tilewise.data.channel import ChannelFolder, parse_channel
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import make_records
from tilewise.data.classes import agreed_classes, in_classes
from tilewise.data.records import Record, Records
from tilewise.data.writers.coco import write_coco
from tilewise.data.writers.cvat import write_cvat
from tilewise.data.writers.image_json import write_image_json
from tilewise.data.writers.label_studio import write_label_studio
from tilewise.data.writers.labelme import write_labelme
from tilewise.data.writers.manifest import write_manifest
from tilewise.data.writers.output import Output, new_folder
from tilewise.data.writers.recordio import write_recordio
from tilewise.data.writers.via import write_via
from tilewise.data.writers.voc import write_voc
from tilewise.data.writers.yolo import write_yolo
from tilewise.errors import UserError
from tilewise.targets import Targets

WRITERS = {
    "image-json": write_image_json,
    "coco": write_coco,
    "manifest": write_manifest,
    "yolo": write_yolo,
    "voc": write_voc,
    "label-studio": write_label_studio,
    "cvat": write_cvat,
    "labelme": write_labelme,
    "via": write_via,
}
NO_SHRINKING = (Phase.explicit, Phase.generate)  # what fails is small enough, and files take time
OF_OBJECTS = ("voc", "image-json", "label-studio", "labelme", "via")
"""The classes that are read are those that objects have."""
EXACT = ("image-json", "coco", "manifest", "voc", "cvat", "labelme", "via")


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def a_record(folder: Path, name: str, rows: list[list[float]], ignored: bool = False) -> Record:
    """A 1000 x 700 image with objects ``label, xmin, ymin, xmax, ymax``."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(1000, 700) + name.encode(errors="surrogateescape"))  # no two the same
    table = np.asarray(rows, np.float64).reshape(-1, 5)
    return Record(
        name,
        path,
        1000,
        700,
        Targets(table[:, 1:].astype(np.float32), table[:, 0].astype(np.int64), np.full(len(table), ignored)),
    )


def read_back(folder: Path) -> tuple[Records, tuple[str, ...]]:
    annotated = parse_channel("train", {"train": ChannelFolder(folder)})
    classes = agreed_classes({"train": annotated}, None)
    issues = ChannelIssues("train")
    records = make_records(in_classes(annotated, classes, "channel train", whose="channel train"), issues)
    assert not issues.left_out and not issues.dropped and not issues.clipped
    return records, classes


def by_content(records: list[Record]) -> dict[bytes, Record]:
    return {record.read(): record for record in records}


coordinates = st.floats(0, 1, width=32) | st.integers(0, 20).map(lambda number: number / 20)


@st.composite
def boxes(draw: st.DrawFn) -> list[float]:
    x0, x1 = sorted(np.float32(1000 * draw(coordinates)) for _ in range(2))
    y0, y1 = sorted(np.float32(700 * draw(coordinates)) for _ in range(2))
    # An object has a hundredth of a pixel or more: less is rounding.
    x0, y0 = min(x0, np.float32(999)), min(y0, np.float32(699))
    x1, y1 = max(x1, x0 + np.float32(0.01)), max(y1, y0 + np.float32(0.01))
    return [draw(st.integers(0, 2)), *map(float, (x0, y0, x1, y1))]


printable = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)
names = printable.filter(
    lambda name: name.isprintable() and name == name.strip() and name != "__ignore__"  # LabelMe's word
)
file_names = printable.filter(lambda name: name[0] != "." and len(name.encode()) < 200)


@pytest.mark.parametrize("form", WRITERS)
@settings(
    max_examples=12,
    deadline=None,
    phases=NO_SHRINKING,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_writers__read_back_the_same(
    form: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(form)
    stems = data.draw(st.lists(file_names, min_size=1, max_size=4, unique_by=lambda name: name.casefold()))
    classes = tuple(data.draw(st.lists(names, min_size=3, max_size=3, unique=True)))
    records = [
        a_record(folder / "source", f"{stem}.png", data.draw(st.lists(boxes(), max_size=4, unique_by=tuple)))
        for stem in stems
    ]
    # Where a quarter of the boxes is below a pixel, a channel is not plausible.
    sides = np.concatenate([record.targets.boxes[:, 2:] - record.targets.boxes[:, :2] for record in records])
    assume((sides < 1).any(axis=1).sum() < max(1, len(sides)) * 0.2)
    # Boxes that are all within a pixel would be read as fractions.
    records.append(a_record(folder / "source", ".large.png", [[0, 1, 2, 300, 400]]))
    (folder / "out").mkdir()
    output = Output(folder / "out", folder / "source")
    WRITERS[form](records, classes, output)
    if form in OF_OBJECTS and not any(len(record.targets.labels) for record in records):
        return  # their classes are those that objects have
    back, their_classes = read_back(folder / "out")
    assert (output.images, output.boxes) == (
        len(records),
        sum(len(record.targets) for record in records),
    )
    if form not in OF_OBJECTS:
        assert their_classes == classes
    found = by_content(list(back))
    assert found.keys() == by_content(records).keys()
    for record in records:
        its = found[record.read()]
        assert [their_classes[label] for label in its.targets.labels] == [
            classes[label] for label in record.targets.labels
        ]
        if form == "voc":  # corners that count from 1 lose what is below a float's precision at 1
            np.testing.assert_allclose(its.targets.boxes, record.targets.boxes, rtol=1e-7, atol=1e-12)
        elif form in EXACT:
            np.testing.assert_array_equal(its.targets.boxes, record.targets.boxes)
        else:
            np.testing.assert_allclose(its.targets.boxes, record.targets.boxes, rtol=3e-7, atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(rows=st.lists(boxes(), min_size=1, max_size=6, unique_by=tuple), difficult=st.booleans())
def test_recordio__reads_back_the_same(
    rows: list[list[float]], difficult: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("recordio")
    records = [a_record(folder, "a.png", rows, difficult), a_record(folder, "b.png", [])]
    (folder / "out").mkdir()
    write_recordio(records, ("a", "b", "c"), Output(folder / "out"), name="train", difficult=difficult)
    back, _ = read_back(folder / "out")
    np.testing.assert_allclose(back[0].targets.boxes, records[0].targets.boxes, rtol=1.2e-7, atol=0)
    np.testing.assert_array_equal(back[0].targets.ignored, records[0].targets.ignored)
    np.testing.assert_array_equal(back[0].targets.labels, records[0].targets.labels)
    assert [record.read() for record in back] == [record.read() for record in records]
    assert len(back[1].targets.labels) == 0
    # What has once been a fraction stays the same box from then on.
    (folder / "again").mkdir()
    write_recordio(list(back), ("a", "b", "c"), Output(folder / "again"), name="train", difficult=difficult)
    np.testing.assert_array_equal(read_back(folder / "again")[0][0].targets.boxes, back[0].targets.boxes)


@pytest.mark.parametrize(
    ("form", "kept"),
    [
        ("coco", True),
        ("voc", True),
        ("cvat", True),
        ("labelme", True),
        ("yolo", False),
        ("image-json", False),
        ("manifest", False),
        ("label-studio", False),
        ("via", False),
    ],
)
def test_ignored_boxes__kept_or_counted(form: str, kept: bool, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    output = Output(tmp_path / "out")
    records = [
        a_record(tmp_path, "a.png", [[0, 1, 2, 3, 4]]),
        a_record(tmp_path, "b.png", [[0, 1, 2, 3, 4]] * 2, True),
    ]
    WRITERS[form](records, ("ant",), output)
    back, _ = read_back(tmp_path / "out")
    left_out = [count for note, count in output.notes.items() if "ignored boxes" in note]
    assert back.targets.ignored.tolist() == ([False, True, True] if kept else [False])
    assert left_out == ([] if kept else [2]) and output.boxes == (3 if kept else 1)


def test_names__unique_safe_and_telling(tmp_path: Path) -> None:
    output = Output(tmp_path, tmp_path)
    sources = [
        "images/a.png",
        "slide 1/a.png",
        "A.jpg",
        "b/\udce4#?.PNG",
        "images/..x.png",
        "é.png",
        "e\u0301.png",
    ]
    records = [a_record(tmp_path, name, []) for name in sources]
    assert [output.name(record, record.path.suffix) for record in records] == [
        "a.png",
        "slide_1_a.png",
        "A-2.jpg",
        "b.PNG",
        "x.png",
        "é.png",
        "é-2.png",
    ]
    long = output.name(a_record(tmp_path, "ü" * 120 + ".png", []), ".png")
    assert long == "ü" * 90 + ".png"


@pytest.mark.parametrize(
    ("form", "name"),
    [("JPEG", "t.rec_3_id_9.jpg"), ("WEBP", "t.rec_3_id_9.webp"), ("PPM", "t.rec_3_id_9.png")],
)
def test_put_image__from_a_record_by_its_bytes(tmp_path: Path, form: str, name: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, form)
    (tmp_path / "s").mkdir()
    write_recordio([a_record(tmp_path, "a.png", [])], (), Output(tmp_path / "s"), name="t")
    content = (tmp_path / "s" / "t.rec").read_bytes()[:40] + file.getvalue()
    length = (len(content) - 8).to_bytes(4, "little")
    padded = content[:4] + length + content[8:] + bytes(-len(content) % 4)
    (tmp_path / "t.rec").write_bytes(padded)
    empty = np.zeros(0, np.int64)
    record = Record(
        "t.rec#3 (id 9)",
        tmp_path / "t.rec",
        8,
        6,
        Targets(np.zeros((0, 4), np.float32), empty, empty.astype(np.bool_)),
        offset=0,
    )
    output = Output(tmp_path)
    assert output.put_image(record, ".") == name
    if form != "PPM":
        assert (tmp_path / name).read_bytes() == file.getvalue() and not output.notes
    else:
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG" and image.getpixel((7, 5)) == (255, 0, 0)
        assert sum(output.notes.values()) == 1


def test_manifest__line_as_ground_truth_writes_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    record = a_record(tmp_path, "a.png", [[1, 10, 20, 30, 60.5]])
    write_manifest(
        [record], ("ant", "bee"), Output(tmp_path / "out"), name="val", s3_prefix="s3://bucket/path/"
    )
    line = json.loads((tmp_path / "out" / "val.manifest").read_text())
    assert line["source-ref"] == "s3://bucket/path/images/a.png"
    assert line["bounding-box"] == {
        "image_size": [{"width": 1000, "height": 700, "depth": 3}],
        "annotations": [{"class_id": 1, "left": 10, "top": 20, "width": 20, "height": 40.5}],
    }
    metadata = line["bounding-box-metadata"]
    assert metadata["class-map"] == {"0": "ant", "1": "bee"} and metadata["objects"] == [{"confidence": 1}]
    assert metadata["type"] == "groundtruth/object-detection" and metadata["human-annotated"] == "yes"
    with pytest.raises(UserError, match="s3://bucket/path"):
        write_manifest(
            [record], ("ant", "bee"), Output(tmp_path / "out"), name="test", s3_prefix="bucket/path"
        )


@pytest.mark.parametrize("form", ["yolo", "voc"])
@pytest.mark.parametrize("name", ["", " ant", "an\nt", "\x07"])
def test_class_names__that_a_format_cannot_hold(form: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give other names with --classes"):
        WRITERS[form]([], (name,), Output(tmp_path))


def test_new_folder__whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with pytest.raises(KeyboardInterrupt), new_folder(target) as folder:
        (folder / "half").touch()
        assert not target.exists()
        raise KeyboardInterrupt
    assert list(target.parent.iterdir()) == []
    target.mkdir()
    with new_folder(target) as folder:
        (folder / "whole").touch()
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    with pytest.raises(UserError, match="is there already"), new_folder(target):
        pass
