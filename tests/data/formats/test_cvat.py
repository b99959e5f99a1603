from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tilewise.data.channel import DataSet
from tilewise.data.files.folder import Folder
from tilewise.data.formats.cvat import read_cvat
from tilewise.errors import UserError
from written_channel import WrittenChannel, data_with_yolo_validation


def element(tag: str, inside: str = "", **attributes: Any) -> str:
    given = "".join(f" {key}={quoteattr(str(value))}" for key, value in attributes.items())
    return f"<{tag}{given}>{inside}</{tag}>"


def corners_of(box: Any) -> dict[str, Any]:
    return dict(zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True))


def box(label: str = "ant", corners: Any = (1, 2, 11, 14), inside: str = "", **more: Any) -> str:
    return element("box", inside, label=label, **corners_of(corners), **more)


def image(*shapes: str, name: str = "a.jpg", size: Any = (40, 30), **more: Any) -> str:
    return element("image", "".join(shapes), id=0, name=name, width=size[0], height=size[1], **more)


def label(name: str, kind: str = "any", more: str = "") -> str:
    return f"<label><name>{name}</name><color>#f00</color><type>{kind}</type><attributes/>{more}</label>"


def file(*elements: str, labels: str = "", task: str = "") -> str:
    head = f"<version>1.1</version><meta><task><id>1</id>{task}<labels>{labels}</labels></task></meta>"
    start = '<?xml version="1.0" encoding="utf-8"?>\n'
    return f"{start}<annotations>{head}{''.join(elements)}</annotations>"


def seen(frame: int, corners: Any = (1, 2, 11, 14), outside: int = 0, **more: Any) -> str:
    return element(
        "box",
        frame=frame,
        outside=outside,
        **corners_of(corners),
        **more,
    )


def track(*shapes: str, label: str = "ant", **more: Any) -> str:
    return element("track", "".join(shapes), id=0, label=label, **more)


def test_read__as_cvat_writes_images(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    path = channel.image("images/a.jpg")
    channel.image("images/b.jpg")
    outline = element(
        "polygon", label="wasp", occluded=0, points="3.50,2.00;20.00,8.00;9.00,25.25", z_order=0
    )
    labels = label("wasp") + label("ant", "rectangle") + label("head", "points") + label("sky", "tag")
    channel.write(
        "annotations.xml",
        file(image(box(), outline, element("tag", label="sky")), image(name="b.jpg"), labels=labels),
    )
    with caplog.at_level(logging.INFO, "tilewise"):
        found = channel.read()
    first, second = found.examples
    assert (first.key, first.path, first.size) == ("a.jpg (annotations.xml)", path, (40, 30))
    assert found.classes == ("wasp", "ant")  # in the task's order, without those that have no area
    assert first.targets.labels.tolist() == [1, 0] and len(second.targets) == 0
    assert first.targets.boxes.tolist() == [[1, 2, 11, 14], [3.5, 2, 20, 25.25]]
    assert "channel train holds CVAT XML (annotations.xml)" in caplog.messages
    assert "channel train: outlines become the upright boxes around them (polygons: 1)" in caplog.messages


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (element("ellipse", label="ant", cx=20, cy=15, rx=8, ry=5), [12, 10, 28, 20]),
        (element("ellipse", label="ant", cx=20, cy=15, rx=8, ry=5, rotation=90), [15, 7, 25, 23]),
        (element("polyline", label="ant", points="1,2;9,2;9,22;1,2.5"), [1, 2, 9, 22]),
        (element("mask", label="ant", rle="3, 2", left=3, top=4, width=7, height=9), [3, 4, 10, 13]),
        (box(corners=(10, 5, 20, 25), rotation="90.00"), [5, 10, 25, 20]),
        (box(corners=(10, 5, 20, 25), rotation="0.00"), [10, 5, 20, 25]),
        (
            element(
                "cuboid",
                label="ant",
                **dict.fromkeys(("xtl1", "xbl1"), "1"),
                **dict.fromkeys(("xtr1", "xbr1", "xtl2", "xbl2"), "9"),
                **dict.fromkeys(("xtr2", "xbr2"), "12"),
                **dict.fromkeys(("ytl1", "ytr1", "ytl2", "ytr2"), "3"),
                **dict.fromkeys(("ybl1", "ybr1", "ybl2", "ybr2"), "8"),
            ),
            [1, 3, 12, 8],
        ),
    ],
)
def test_shapes__boxes_around_them(channel: WrittenChannel, shape: str, expected: Any) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", file(image(shape)))
    assert channel.only().targets.boxes.tolist() == [expected]


def test_shapes__a_box_that_is_turned_by_45_degrees(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", file(image(box(corners=(10, 10, 20, 20), rotation=45))))
    half = 50**0.5
    assert channel.only().targets.boxes[0].tolist() == pytest.approx(
        [15 - half, 15 - half, 15 + half, 15 + half]
    )


def test_shapes__outlines_of_one_group_are_one_object(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    parts = [
        element("polygon", label="ant", group_id=3, points=points)
        for points in ("1,1;5,1;3,6", "10,2;14,2;12,9")
    ]
    channel.write("a.xml", file(image(*parts, box(group_id=3), box(group_id=3))))
    assert channel.only().targets.boxes.tolist() == [[1, 1, 14, 9], [1, 2, 11, 14], [1, 2, 11, 14]]


@pytest.mark.parametrize(
    ("name", "value", "ignored"),
    [
        ("difficult", "true", True),
        ("is_crowd", "True", True),
        ("difficult", "false", False),
        ("old", "true", False),
    ],
)
def test_shapes__attributes_that_mean_ignored(
    channel: WrittenChannel, name: str, value: str, ignored: bool
) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", file(image(box(inside=element("attribute", value, name=name), occluded=1))))
    assert channel.only().targets.ignored.tolist() == [ignored]


@pytest.mark.parametrize(
    ("path", "name", "more"),
    [
        ("a.jpg", "a.jpg", {}),
        ("images/train/a.jpg", "a.jpg", {"subset": "train"}),
        ("images/default/x/a.jpg", "x/a.jpg", {"subset": "default"}),
        ("a.jpg", "/home/me/pictures/a.jpg", {}),
        ("a.jpg", "C:\\pictures\\a.jpg", {}),
        ("images/frame_000017.PNG", "frame_000017", {}),
        ("größe 木.jpg", "größe 木.jpg", {}),
    ],
)
@pytest.mark.parametrize("separate", [False, True])
def test_image__found(
    channel: WrittenChannel, tmp_path: Path, path: str, name: str, more: Any, separate: bool
) -> None:
    where = channel.image(path)
    channel.annotations = tmp_path / "train_annotation" if separate else channel.root
    channel.write("annotations.xml", file(image(box(), name=name, **more)))
    assert (channel.only().path, channel.only().problem) == (where, "")


def test_image__of_a_subset_before_another_of_its_name(channel: WrittenChannel) -> None:
    paths = [channel.image(f"images/{subset}/a.jpg") for subset in ("one", "two")]
    channel.write("a.xml", file(image(subset="two"), image(subset="one")))
    assert [example.path for example in channel.read().examples] == paths[::-1]


def test_image__not_in_the_channel(channel: WrittenChannel) -> None:
    channel.image("../secret.jpg")
    channel.write("a.xml", file(image(name="../secret.jpg")))
    assert channel.only().problem == "its image ../secret.jpg is not in the channel, or not only once"


def test_image__annotated_twice(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", file(image()))
    channel.write("b.xml", file(image()))
    assert (
        channel.message()
        == "a.jpg (a.xml) and a.jpg (b.xml) annotate the same image a.jpg: keep one, with all of its objects"
    )


def test_image__of_another_size(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", file(image(box(), size=(30, 40))))
    assert "its annotation says 30 x 40 pixels, but the image has 40 x 30" in channel.message()


def test_files__several_tasks(channel: WrittenChannel) -> None:
    for name in "ab":
        channel.image(f"{name}.jpg")
    channel.write("1/annotations.xml", file(image(box("bee")), labels=label("bee")))
    channel.write(
        "2/annotations.xml", file(image(box("ant"), name="b.jpg"), labels=label("ant") + label("bee"))
    )
    found = channel.read()
    assert found.classes == ("bee", "ant")
    assert [example.targets.labels.tolist() for example in found.examples] == [[0], [1]]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (
            element("points", label="ant", points="1,2"),
            "a points of the label ant: it has no area: draw a box",
        ),
        (
            element("polyline", label="ant", points="1,2;3,4"),
            "a polyline of the label ant: it is a polyline, which has no area: draw a box",
        ),
        (element("skeleton", label="ant"), "a skeleton of the label ant: it has no area"),
        (element("box", label="ant", xtl=1, ytl=2, xbr=3), "a box of the label ant: its ybr is missing"),
        (box(corners=(1, 2, "x", 4)), 'a box of the label ant: its xbr is "x" (text), not a number'),
        (box(rotation="inf"), "a box of the label ant: its rotation is inf, not an angle in degrees"),
        (element("box"), "a box of the label None: its label is null, not the name of a class"),
        (
            element("polygon", label="ant", points="1,2;3,4"),
            "a polygon of the label ant: its polygon has 2 points, which enclose no area",
        ),
        (
            element("polygon", label="ant", points="1,2;3;4,5"),
            'a polygon of the label ant: its points are [["1", "2"], ["3"], ["4", "5"]] (list), not pairs',
        ),
    ],
)
def test_shapes__that_cannot_be_used(channel: WrittenChannel, wrong: str, problem: str) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", file(image(box(), wrong)))
    (reason,) = channel.only().unread
    assert reason.startswith(problem) and len(channel.only().targets) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotations><image>", "a.xml is not XML of CVAT: no element found"),
        (
            '<!DOCTYPE annotations [<!ENTITY a "aaaa"><!ENTITY b "&a;">]><annotations><meta/></annotations>',
            "a.xml is not XML of CVAT: it declares the entity a, which is not supported",
        ),
        (
            '<?xml version="1.0" encoding="nonsense"?><annotations><meta/></annotations>',
            "a.xml is not XML of CVAT: unknown",
        ),
        (
            "<a><annotations><meta/></annotations></a>",
            "a.xml is not XML of CVAT: it begins with <a>, not <annotations>",
        ),
        (
            file(track(element("box", frame="x"))),
            'a.xml is not XML of CVAT: a box of track 0 has the frame "x" (text), not a',
        ),
    ],
)
def test_file__that_cannot_be_used(channel: WrittenChannel, content: str, message: str) -> None:
    channel.image("a1.jpg")
    channel.write("a.xml", content)
    assert channel.message().startswith(message)


def test_video__frames_and_tracks(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    paths = [channel.image(f"images/frame_00000{number}.PNG") for number in range(4)]
    size = "<size>4</size><mode>interpolation</mode><start_frame>0</start_frame><stop_frame>3</stop_frame>"
    size += "<original_size><width>40</width><height>30</height></original_size>"
    one = track(seen(0), seen(1, (2, 2, 12, 14), keyframe=0), seen(2, (3, 2, 13, 14), outside=1))
    other = track(seen(1, (20, 5, 30, 9)), label="bee")
    channel.write("annotations.xml", file(one, other, labels=label("bee") + label("ant"), task=size))
    with caplog.at_level(logging.INFO, "tilewise"):
        found = channel.read()
    assert [example.path for example in found.examples] == paths and found.classes == ("bee", "ant")
    boxes = [example.targets.boxes.tolist() for example in found.examples]
    # What CVAT interpolated counts, an object outside its frame does not; frames without any are background.
    assert boxes == [[[1, 2, 11, 14]], [[2, 2, 12, 14], [20, 5, 30, 9]], [], []]
    assert [example.targets.labels.tolist() for example in found.examples] == [[1], [1, 0], [], []]
    assert {example.size for example in found.examples} == {(40, 30)}
    assert (
        "channel train: annotations.xml is of a video; 4 images are its frames, the first one "
        "images/frame_000000.PNG as frame 0" in caplog.messages
    )


def test_video__keyframes_alone_are_interpolated(
    channel: WrittenChannel, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(7):
        channel.image(f"frame_00000{number}.png")
    shapes = [seen(0, (0, 0, 10, 10)), seen(4, (8, 4, 20, 12)), seen(6, outside=1)]
    channel.write("a.xml", file(track(*shapes[::-1])))
    with caplog.at_level(logging.INFO, "tilewise"):
        boxes = [example.targets.boxes.tolist() for example in channel.read().examples]
    assert boxes[1:4] == [[[2, 1, 12.5, 10.5]], [[4, 2, 15, 11]], [[6, 3, 17.5, 11.5]]]
    assert boxes[4] == [[8, 4, 20, 12]] and len(boxes[5]) == 1 and boxes[6] == []
    assert any("; 4 boxes between two keyframes are interpolated" in message for message in caplog.messages)


def test_video__only_some_of_its_frames_are_there(channel: WrittenChannel) -> None:
    channel.image("clip_frame_000010.png")
    channel.write(
        "a.xml", file(track(seen(0), *(seen(number) for number in range(1, 20)), seen(20, outside=1)))
    )
    assert channel.only().targets.boxes.tolist() == [[1, 2, 11, 14]]


@pytest.mark.parametrize(
    ("images", "tracks", "message"),
    [
        (
            ["1.png", "2.png", "3.png"],
            [track(seen(0))],
            "3.png would be frame 3, but the video of a.xml ends with frame 2, since frames count from 0",
        ),
        (
            ["a.png"],
            [track(seen(0))],
            "a.png is no frame of a video, whose images have their numbers in their names",
        ),
        (["a1.png", "b1.png"], [track(seen(0))], "a1.png and b1.png are both frame 1 of a video: export"),
        ([], [track(seen(0))], "a.xml has tracks of a video, but the channel train holds no image: export"),
        (
            ["0.png"],
            [track(seen(0), task_id=1), track(seen(0), task_id=2)],
            "a.xml has the tracks of several tasks, whose frames have the same numbers: export each alone",
        ),
    ],
)
def test_video__frames_that_do_not_match(
    channel: WrittenChannel, images: list[str], tracks: list[str], message: str
) -> None:
    for name in images:
        channel.image(name)
    channel.write("a.xml", file(*tracks, task="<stop_frame>2</stop_frame>"))
    assert channel.message().startswith(message)


def test_video__a_track_that_cannot_be_used(channel: WrittenChannel) -> None:
    for number in range(2):
        channel.image(f"frame_{number}.png")
    channel.write("a.xml", file(track(element("points", frame=1, points="1,2", outside=0))))
    first, second = channel.read().examples
    assert first.unread == () and second.unread[0].startswith(
        "track 0: a points of the label ant: it has no area"
    )


_XML = st.recursive(
    st.sampled_from(["", "1", "&amp;"]),
    lambda inner: st.tuples(
        st.sampled_from(
            ["meta", "image", "track", "box", "polygon", "label", "name", "mask", "ellipse", "attribute"]
        ),
        st.dictionaries(
            st.sampled_from(
                ["name", "label", "frame", "xtl", "ytl", "xbr", "ybr", "points", "width", "rotation", "id"]
            ),
            st.sampled_from(
                ["", "1", "40", "-3", "nan", "inf", "1e999", "ant", "a.png", "1,2;3,4;5,6", "1,nan;;3", "0"]
            ),
        ),
        st.lists(inner, max_size=6),
    ).map(lambda parts: element(parts[0], "".join(parts[2]), **parts[1])),
    max_leaves=20,
)


@given(st.binary(max_size=100) | _XML.map(lambda text: f"<annotations>{text}</annotations>".encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything(tmp_path: Path, content: bytes) -> None:
    if not (tmp_path / "a.png").exists():
        Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_bytes(content)
    try:
        read_cvat({"a.xml": tmp_path / "a.xml"}, Folder(tmp_path), "train")
    except UserError as error:
        assert "a.xml" in str(error) or "a.png" in str(error)


def test_validation__in_another_format(channel: WrittenChannel, tmp_path: Path) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", file(image(box("bee"), box("ant"))))
    data = data_with_yolo_validation(channel, tmp_path, "ant")
    assert data.classes == ("bee", "ant") and data.validation is not None
    assert data.validation.sample[0].targets.labels.tolist() == [1]


def test_real_data__as_coco_has_it(
    channel: WrittenChannel, compare_with_coco: Callable[..., DataSet]
) -> None:
    def write(images: Any, classes: list[str]) -> None:
        elements = [
            image(
                *(box(name, (x, y, x + width, y + height)) for name, (x, y, width, height) in rows),
                name=entry["file_name"],
                size=(entry["width"], entry["height"]),
            )
            for entry, rows in images
        ]
        channel.write("annotations.xml", file(*elements, labels="".join(map(label, classes))))

    compare_with_coco(channel.root, write, exact=True)
