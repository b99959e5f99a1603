from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tilewise.data.channel import DataSet
from tilewise.data.files.folder import Folder
from tilewise.data.formats.labelme import read_labelme
from written_channel import WrittenChannel, data_with_yolo_validation


def shape(label: Any = "ant", points: Any = ((1, 2), (11, 14)), kind: Any = "rectangle", **more: Any) -> Any:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


def annotation(*shapes: Any, image: Any = "a.jpg", size: Any = (40, 30), data: Any = None) -> str:
    return json.dumps(
        {
            "version": "5.4.1",
            "flags": {},
            "shapes": list(shapes),
            "imagePath": image,
            "imageData": data,
            "imageHeight": size[1],
            "imageWidth": size[0],
        }
    )


def test_read__as_labelme_writes_it(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    path = channel.image("a.jpg")
    polygon = shape("bee", [[3.5, 2], [20, 8], [9, 25.25]], "polygon")
    channel.write("a.json", annotation(shape(points=[[11, 14], [1, 2]]), polygon))
    with caplog.at_level(logging.INFO, "tilewise"):
        found = channel.read()
    (example,) = found.examples
    assert (example.key, example.path, example.size) == ("a.json", path, (40, 30))
    assert found.classes == ("ant", "bee") and example.targets.labels.tolist() == [0, 1]
    assert example.targets.boxes.tolist() == [[1, 2, 11, 14], [3.5, 2, 20, 25.25]]
    assert "channel train holds LabelMe JSON (a.json)" in caplog.messages
    assert "channel train: outlines become the upright boxes around them (polygons: 1)" in caplog.messages


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        (None, [[1, 2], [9, 3], [4, 8]], [1, 2, 9, 8]),
        ("circle", [[20, 15], [23, 19]], [15, 10, 25, 20]),
        ("mask", [[3, 4], [9, 12]], [3, 4, 10, 13]),
        ("rotation", [[10, 2], [18, 10], [12, 16], [4, 8]], [4, 2, 18, 16]),
        ("oriented_rectangle", [[10, 2], [18, 10], [12, 16], [4, 8]], [4, 2, 18, 16]),
        ("rectangle", [[1, 2], [9, 2], [9, 8], [1, 8]], [1, 2, 9, 8]),
        ("linestrip", [[1, 2], [9, 2], [9, 22], [1, 2.5]], [1, 2, 9, 22]),
    ],
)
def test_shapes__boxes_around_them(channel: WrittenChannel, kind: str | None, points: Any, box: Any) -> None:
    channel.image("a.jpg")
    channel.write("a.json", annotation(shape(points=points, kind=kind)))
    assert channel.only().targets.boxes.tolist() == [box]


def test_shapes__outlines_of_one_group_are_one_object(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    parts: list[list[list[int]]] = [[[1, 1], [5, 1], [3, 6]], [[10, 2], [14, 2], [12, 9]]]
    outlines = [shape(points=points, kind="polygon", group_id=7) for points in parts]
    others = [shape("bee", parts[0], "polygon", group_id=7), shape(group_id=7), shape(group_id=7)]
    channel.write("a.json", annotation(*outlines, *others))
    assert channel.only().targets.boxes.tolist() == [
        [1, 1, 14, 9],
        [1, 1, 5, 6],
        [1, 2, 11, 14],
        [1, 2, 11, 14],
    ]


def test_shapes__regions_to_ignore_are_of_every_class(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    channel.write("a.json", annotation(shape("__ignore__", [[3, 4], [9, 8]]), shape("bee"), shape("ant")))
    channel.write("b.json", annotation(shape("bee"), image="b.jpg"))
    found = channel.read()
    first, second = (example.targets for example in found.examples)
    assert found.classes == ("ant", "bee") and second.labels.tolist() == [1]
    assert sorted(zip(first.labels.tolist(), first.ignored.tolist(), first.boxes.tolist(), strict=True)) == [
        (0, False, [1, 2, 11, 14]),
        (0, True, [3, 4, 9, 8]),
        (1, False, [1, 2, 11, 14]),
        (1, True, [3, 4, 9, 8]),
    ]


def test_shapes__difficult_ones_are_ignored(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.json", annotation(shape(difficult=True), shape(flags={"difficult": True}), shape()))
    assert channel.only().targets.ignored.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("image", "name", "path"),
    [
        ("a.jpg", "a.json", "a.jpg"),
        ("images/a.jpg", "labels/a.json", "..\\images\\a.jpg"),
        ("images/a.jpg", "labels/1.json", "../images/a.jpg"),
        ("a.jpg", "1.json", "C:\\Users\\me\\pictures\\a.jpg"),
        ("a.jpg", "1.json", "/home/me/a.jpg"),
        ("a.png", "a.json", "a.jpg"),
        ("a.jpg", "a.json", ""),
        ("größe 木.jpg", "1.json", "größe 木.jpg"),
    ],
)
@pytest.mark.parametrize("separate", [False, True])
def test_image__found(
    channel: WrittenChannel, tmp_path: Path, image: str, name: str, path: str, separate: bool
) -> None:
    file = channel.image(image)
    channel.annotations = tmp_path / "train_annotation" if separate else channel.root
    channel.write(name, annotation(shape(), image=path))
    assert (channel.only().path, channel.only().problem) == (file, "")


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/a.jpg", "b.jpg"])
def test_image__not_in_the_channel(channel: WrittenChannel, path: str) -> None:
    channel.image("../secret.jpg")
    channel.write("a.json", annotation(image=path))
    assert channel.only().problem == f"its image {path} is not in the channel, or not only once"


def test_image__in_the_file_itself(channel: WrittenChannel, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (9, 8, 7)).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    channel.write("a.json", annotation(shape(), data=base64.b64encode(content).decode()))
    (record,) = channel.data().train.sample
    assert record.read() == content and record.targets.boxes.tolist() == [[1, 2, 11, 14]]


def test_image__in_the_file_but_no_base64(channel: WrittenChannel) -> None:
    channel.write("a.json", annotation(shape(), data="ä" * 200))
    assert channel.only().problem == f'its imageData is "{"ä" * 78}… (text), not an image in base64'


def test_image__the_channels_one_before_the_one_in_the_file(channel: WrittenChannel) -> None:
    path = channel.image("a.jpg")
    channel.write("a.json", annotation(shape(), data="AAAA"))
    assert channel.only().path == path


def test_image__without_json(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    channel.write("a.json", annotation())
    first, second = channel.read().examples
    assert first.problem == "" and len(first.targets) == 0
    assert second.key == "b.jpg" and second.problem.startswith("no JSON file annotates it")


def test_image__with_two_files(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    for name in ("a.json", "copy.json"):
        channel.write(name, annotation(shape()))
    assert (
        channel.message()
        == "a.json and copy.json annotate the same image a.jpg: keep one, with all of its objects"
    )


def test_image__of_another_size(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.json", annotation(shape(), size=(30, 40)))
    assert "a.json: its annotation says 30 x 40 pixels, but the image has 40 x 30" in channel.message()


def test_files__other_json_beside_them(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.json", b"\xef\xbb\xbf" + annotation(shape()).encode())
    channel.write("0 notes.json", '{"by": "me"}')
    assert channel.only().problem == ""


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (shape(label=None), "shapes[1] (None): its label is null, not the name of a class"),
        (shape(label=" "), 'shapes[1] ( ): its label is " " (text), not the name of a class'),
        (shape(points=None), "shapes[1] (ant): its points are null, not pairs of x and y"),
        (
            shape(points=[[1, 2, 3]]),
            "shapes[1] (ant): its points are [[1, 2, 3]] (list), not pairs of x and y",
        ),
        (shape(points=[1, 2]), "shapes[1] (ant): its points are [1, 2] (list), not pairs of x and y"),
        (
            shape(points=[["a", 2], [3, 4]]),
            'shapes[1] (ant): its points are [["a", 2], [3, 4]] (list), not pairs of x and y',
        ),
        (
            shape(points=[["nan", 2], [3, 4]]),
            'shapes[1] (ant): its points are [["nan", 2], [3, 4]] (list), not all of them finite',
        ),
        (
            shape(kind="polygon"),
            "shapes[1] (ant): its polygon has 2 points, which enclose no area",
        ),
        (
            shape(kind="circle", points=[[1, 2]]),
            "shapes[1] (ant): its circle has the points [[1, 2]] (list), not a centre and an edge",
        ),
        (
            shape("bar", kind="line"),
            "shapes[1] (bar): it is a line, which has no area: draw a box or a polygon, or delete it",
        ),
        (
            shape("bar", [[1, 2], [3, 4], [9, 9], [5, 7]], kind="linestrip"),
            "shapes[1] (bar): it is a linestrip, which has no area: draw a box or a polygon, or delete it",
        ),
        (
            shape(kind="point", points=[[1, 2]]),
            "shapes[1] (ant): it is a point, which has no area: draw a box or a polygon, or delete it",
        ),
        (
            shape(kind="star"),
            'shapes[1] (ant): its shape_type is "star" (text), not one of rectangle, polygon, rotation, '
            "oriented_rectangle, quadrilateral, cuboid, circle, mask, linestrip",
        ),
    ],
)
def test_shapes__that_cannot_be_used(channel: WrittenChannel, wrong: Any, problem: str) -> None:
    path = channel.image("a.jpg")
    channel.write("a.json", annotation(shape(), wrong))
    example = channel.only()
    assert (example.unread, example.path, len(example.targets)) == ((problem,), path, 1)
    assert channel.data().train.issues.dropped == [f"a.json: {problem}"]


_FORM = "not a JSON file of LabelMe's form: "


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", f"{_FORM}Input data was truncated"),
        (
            '{"shapes": {}}',
            f"{_FORM}Expected `array`, got `object` - at `$.shapes`",
        ),
        (
            '{"shapes": [3]}',
            f"{_FORM}Expected `object`, got `int` - at `$.shapes[0]`",
        ),
        ("[]", f"{_FORM}Expected `object`, got `array`"),
        (annotation(size=("wide", 3)), 'its image\'s width and height are "wide" (text) and 3 (number)'),
    ],
)
def test_file__that_cannot_be_used(channel: WrittenChannel, content: str, problem: str) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    channel.write("a.json", content)
    channel.write("b.json", annotation(shape(), image="b.jpg"))
    assert channel.read().examples[0].problem == problem


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.sampled_from(["a.png", "ant", "polygon", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["shapes", "points", "label", "shape_type", "flags", "group_id", "imageData"]),
            inner,
        )
    ),
    max_leaves=20,
)


@given(st.binary(max_size=100) | _VALUES.map(lambda value: json.dumps({"shapes": value}).encode()))
@example(b'{"shapes": [{"label": 0, "shape_type": []}]}')
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything(tmp_path: Path, content: bytes) -> None:
    if not (tmp_path / "a.png").exists():
        Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_bytes(content)
    found = read_labelme({"a.json": tmp_path / "a.json"}, Folder(tmp_path), "train")
    assert len(found.examples) == 1


def test_validation__in_another_format(channel: WrittenChannel, tmp_path: Path) -> None:
    channel.image("a.jpg")
    channel.write("a.json", annotation(shape("bee"), shape("ant")))
    data = data_with_yolo_validation(channel, tmp_path, "bee")
    assert data.classes == ("ant", "bee") and data.validation is not None
    assert data.validation.sample[0].targets.labels.tolist() == [1]


def test_real_data__as_coco_has_it(
    channel: WrittenChannel, compare_with_coco: Callable[..., DataSet]
) -> None:
    def write(images: Any, classes: list[str]) -> None:
        for image, rows in images:
            shapes = [shape(name, [[x, y], [x + w, y + h]]) for name, (x, y, w, h) in rows]
            size = image["width"], image["height"]
            content = annotation(*shapes, image=image["file_name"], size=size)
            channel.write(f"{Path(image['file_name']).stem}.json", content)

    compare_with_coco(channel.root, write, exact=True)
