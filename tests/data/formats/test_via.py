from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tilewise.data.channel import DataSet
from tilewise.data.files.folder import Folder
from tilewise.data.formats.via import read_via
from tilewise.errors import UserError
from written_channel import WrittenChannel, data_with_yolo_validation

RECT = {"name": "rect", "x": 1, "y": 2, "width": 10, "height": 12}


def region(shape: Any = RECT, **attributes: Any) -> Any:
    return {"shape_attributes": shape, "region_attributes": attributes}


def line(x: list[float], y: list[float]) -> Any:
    return {"name": "polyline", "all_points_x": x, "all_points_y": y}


def entry(*regions: Any, name: Any = "a.jpg", numbered: bool = False) -> dict[str, Any]:
    those: Any = {str(index): one for index, one in enumerate(regions)} if numbered else [*regions]
    return {f"{name}123": {"filename": name, "size": 123, "regions": those, "file_attributes": {}}}


def exported(*entries: dict[str, Any]) -> str:
    return json.dumps({key: value for one in entries for key, value in one.items()})


def project(*entries: dict[str, Any]) -> str:
    settings = {"ui": {"image": {}, "image_grid": {}}, "core": {}, "project": {"name": "x"}}
    return json.dumps(
        {
            "_via_settings": settings,
            "_via_img_metadata": json.loads(exported(*entries)),
            "_via_attributes": {"region": {"class": {"type": "text"}}, "file": {}},
            "_via_data_format_version": "2.0.10",
        }
    )


def as_csv(*entries: dict[str, Any], mark: str = "") -> str:
    """As the annotator writes it: a row for each region, and one for an image without."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    columns = (
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    )
    file.write(f"{mark}{columns}\n")
    for one in (value for each in entries for value in each.values()):
        count = len(one["regions"])
        for index, each in enumerate(one["regions"] or [region({})]):
            texts = json.dumps(each["shape_attributes"]), json.dumps(each["region_attributes"])
            rows.writerow([one["filename"], 123, "{}", count, index, *texts])
    return file.getvalue()


def write(channel: WrittenChannel, *entries: dict[str, Any]) -> None:
    channel.write("via_export_json.json", exported(*entries))


@pytest.mark.parametrize(
    ("name", "form"),
    [("via_project.json", project), ("via_export_json.json", exported), ("via_export_csv.csv", as_csv)],
)
def test_read__what_the_annotator_writes(
    channel: WrittenChannel, caplog: pytest.LogCaptureFixture, name: str, form: Callable[..., str]
) -> None:
    path = channel.image("a.jpg")
    channel.image("b.jpg")
    outline = {"name": "polygon", "all_points_x": [3.5, 20, 9], "all_points_y": [2, 8, 25.25]}
    both = region(RECT, **{"class": "bee"}), region(outline, **{"class": "ant"})
    channel.write(name, form(entry(*both), entry(name="b.jpg")))
    with caplog.at_level(logging.INFO, "tilewise"):
        found = channel.read()
    first, second = found.examples
    assert first.key.startswith(f"a.jpg ({name} ") and first.path == path
    assert found.classes == ("ant", "bee") and first.targets.labels.tolist() == [1, 0]
    assert first.targets.boxes.tolist() == [[1, 2, 11, 14], [3.5, 2, 20, 25.25]]
    assert (second.problem, len(second.targets)) == ("", 0)
    assert f"channel train holds VGG Image Annotator ({name})" in caplog.messages
    assert "channel train: outlines become the upright boxes around them (polygons: 1)" in caplog.messages


def test_read__version_1(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    write(channel, entry(region(name="bee"), numbered=True))
    channel.write("b.csv", as_csv(entry(region(name="ant"), name="b.jpg"), mark="#"))
    found = channel.read()
    assert found.classes == ("ant", "bee") and [len(one.targets) for one in found.examples] == [1, 1]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ({"name": "circle", "cx": 20, "cy": 15, "r": 5}, [15, 10, 25, 20]),
        ({"name": "ellipse", "cx": 20, "cy": 15, "rx": 8, "ry": 5}, [12, 10, 28, 20]),
        ({"name": "polyline", "all_points_x": [1, 9, 9, 1], "all_points_y": [2, 2, 22, 2.5]}, [1, 2, 9, 22]),
        (
            {"name": "ellipse", "cx": 20, "cy": 15, "rx": 8, "ry": 5, "theta": 1.5707963267948966},
            [15, 7, 25, 23],
        ),
    ],
)
def test_shapes__boxes_around_them(channel: WrittenChannel, shape: Any, box: Any) -> None:
    channel.image("a.jpg")
    write(channel, entry(region(shape, type="x")))
    assert channel.only().targets.boxes[0].tolist() == pytest.approx(box, abs=1e-5)


@pytest.mark.parametrize(
    ("attributes", "classes"),
    [
        ([{}, {}], ("object",)),
        ([{"part": "wing"}, {"part": 3}], ("3", "wing")),
        ([{"Class": "a", "note": "x"}, {"Class": "b"}], ("a", "b")),
        (
            [{"name": "my ant", "type": "ant", "image_quality": {"good": True}}, {"type": "bee"}],
            ("ant", "bee"),
        ),
        ([{"kind": {"ant": True, "bee": False}}, {"kind": {"bee": True}}], ("ant", "bee")),
        ([{"type": "", "part": "wing"}, {"part": "leg"}], ("leg", "wing")),
    ],
)
def test_classes__by_which_attribute(channel: WrittenChannel, attributes: Any, classes: Any) -> None:
    channel.image("a.jpg")
    write(channel, entry(*(region(**one) for one in attributes)))
    assert channel.read().classes == classes and channel.only().problem == ""


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            [{"colour": "red", "part": "wing"}],
            "channel train: via_export_json.json: its regions have the attributes 'colour', 'part', and none "
            "is called class, label, category, type, name or object: rename the one that is the class",
        ),
        (
            [{"ant": ""}],
            "channel train: via_export_json.json: the attribute 'ant' of its regions has no value: name "
            "their classes",
        ),
    ],
)
def test_classes__by_no_attribute(channel: WrittenChannel, attributes: Any, message: str) -> None:
    channel.image("a.jpg")
    write(channel, entry(*(region(**one) for one in attributes)))
    assert channel.message() == message


def test_classes__without_any_attribute(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    channel.image("a.jpg")
    write(channel, entry(region()))
    assert channel.read().classes == ("object",)
    assert "its regions have no attributes: they are all of one class, object" in caplog.text


@pytest.mark.parametrize(
    ("offered", "unused"),
    [
        ({"options": {"ant": "", "wasp": "Wasp", " bee": ""}}, ["wasp"]),
        ({"options": {"ant": ""}}, []),
        ({"type": "text"}, []),
        ({"options": ["ant", "wasp"]}, []),
        ("ant", []),
    ],
)
def test_classes__options_of_a_project_that_no_region_has_are_said(
    channel: WrittenChannel, caplog: pytest.LogCaptureFixture, offered: Any, unused: list[str]
) -> None:
    channel.image("a.jpg")
    content = json.loads(project(entry(region(kind="ant"), region(kind="bee"))))
    content["_via_attributes"] = {"region": {"kind": offered, "colour": {"options": {"red": ""}}}}
    channel.write("via_project.json", json.dumps(content))
    with caplog.at_level(logging.INFO, "tilewise"):
        assert channel.read().classes == ("ant", "bee")
    start = "channel train: via_project.json: options of the attribute 'kind' that no region has: "
    said = [one.removeprefix(start).partition(" (")[0] for one in caplog.messages if start in one]
    assert said == unused


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.jpg", "https://host/x/a.jpg?size=big"),
        ("a.jpg", "C:\\me\\a.jpg"),
        ("x/a.jpg", "a.jpg"),
        ("x y/a.jpg", "x%20y/a.jpg"),
    ],
)
def test_image__found(channel: WrittenChannel, file: str, name: str) -> None:
    path = channel.image(file)
    write(channel, entry(region(), name=name))
    assert channel.only().path == path


def test_image__not_in_the_channel(channel: WrittenChannel) -> None:
    channel.image("../secret.jpg")
    write(channel, entry(region(), name="../secret.jpg"))
    assert channel.only().problem == "its image ../secret.jpg is not in the channel, or not only once"


def test_image__in_two_files(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("1.json", exported(entry(region())))
    channel.write("2.csv", as_csv(entry(region())))
    assert channel.message() == (
        "a.jpg (1.json a.jpg123) and a.jpg (2.csv line 2) annotate the same image a.jpg: "
        "keep one, with all of its objects"
    )


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (
            region({"name": "point", "cx": 1, "cy": 2}, type="x"),
            "it is a point, which has no area: draw a box",
        ),
        (region(line([1, 5, 9, 9], [1, 2, 3, 9]), type="x"), "it is a polyline, which has no area"),
        (
            region({"name": "star"}, type="x"),
            'its shape is "star" (text), not a rect, polygon, circle or ellipse',
        ),
        (region([], type="x"), "its shape_attributes are [] (list), not an object"),
        (region({"name": "rect", "x": 1}, type="x"), "its y is missing"),
        (region({**RECT, "width": "wide"}, type="x"), 'its width is "wide" (text), not a number'),
        (
            region({"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}, type="x"),
            "its all_points_x and all_points_y are [1, 2, 3] (list) and [1, 2] (list), not two lists",
        ),
        (region(), "its type is null, not the name of a class"),
        (region(type={"a": True, "b": True}), 'its type is ["a", "b"] (list): an object is of one class'),
    ],
)
def test_regions__that_cannot_be_used(channel: WrittenChannel, wrong: Any, problem: str) -> None:
    channel.image("a.jpg")
    write(channel, entry(region(type="ant"), wrong))
    (reason,) = channel.only().unread
    assert reason.startswith(f"regions[1]: {problem}") and len(channel.only().targets) == 1


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (
            "a.json",
            exported({"a": {"filename": "a.jpg", "regions": 3, "file_attributes": {}}}),
            "its regions are 3",
        ),
        ("a.json", exported({"a": {"regions": [], "file_attributes": {}}}), "it has no filename"),
        ("a.csv", as_csv() + 'a.jpg,1,"{}",1,0,"{"\n', "line 2: it has 6 of 7 columns"),
        ("a.csv", as_csv() + 'a.jpg,1,"{}",1,0,"{","{}"\n', "line 2: Expecting property name"),
    ],
)
def test_entries__that_cannot_be_used(channel: WrittenChannel, name: str, content: str, problem: str) -> None:
    channel.image("a.jpg")
    channel.write(name, content)
    assert channel.only().problem.startswith(problem)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            '{"regions": {}, "file_attributes": {}',
            "a.json is not a file of the VGG Image Annotator: Input",
        ),
        (
            "a.csv",
            "filename,region_shape_attributes\n",
            "a.csv has no column region_attributes in its first line",
        ),
        (
            "a.csv",
            as_csv().encode() + b"\xff",
            "a.csv is not text in utf-8: invalid start byte",
        ),
    ],
)
def test_file__that_cannot_be_used(channel: WrittenChannel, name: str, content: Any, message: str) -> None:
    channel.image("a.jpg")
    channel.write(name, content)
    assert channel.message().startswith(message)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["a.png", "rect", "polygon"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["filename", "regions", "shape_attributes", "region_attributes", "name", "x", "width"]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(st.binary(max_size=100) | _VALUES.map(lambda value: json.dumps({"a": value}).encode()), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything(tmp_path: Path, content: bytes, is_csv: bool) -> None:
    if not (tmp_path / "a.png").exists():
        Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    path = tmp_path / ("a.csv" if is_csv else "a.json")
    path.write_bytes(as_csv().encode() + content if is_csv else content)
    try:
        read_via({path.name: path}, Folder(tmp_path), "train")
    except UserError as error:
        assert path.name in str(error)


def test_validation__in_another_format(channel: WrittenChannel, tmp_path: Path) -> None:
    channel.image("a.jpg")
    write(channel, entry(region(type="bee"), region(type="ant")))
    data = data_with_yolo_validation(channel, tmp_path, "bee")
    assert data.classes == ("ant", "bee") and data.validation is not None
    assert data.validation.sample[0].targets.labels.tolist() == [1]


@pytest.mark.parametrize(("name", "form"), [("a.json", exported), ("a.csv", as_csv)])
def test_real_data__as_coco_has_it(
    channel: WrittenChannel, compare_with_coco: Callable[..., DataSet], name: str, form: Callable[..., str]
) -> None:
    def fill(images: Any, classes: list[str]) -> None:
        entries = [
            entry(
                *(
                    region({"name": "rect", "x": x, "y": y, "width": width, "height": height}, label=label)
                    for label, (x, y, width, height) in rows
                ),
                name=image["file_name"],
            )
            for image, rows in images
        ]
        channel.write(name, form(*entries))

    compare_with_coco(channel.root, fill, exact=True)
