from __future__ import annotations

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
from tilewise.data.formats import label_studio
from tilewise.data.formats.label_studio import read_label_studio
from tilewise.errors import UserError
from written_channel import WrittenChannel, data_with_yolo_validation

BOX = {"x": 25, "y": 10, "width": 50, "height": 20, "rotation": 0}
"""In a 40 x 30 image from (10, 3) to (30, 9)."""


def region(value: Any = None, kind: str = "rectanglelabels", label: Any = "ant", **more: Any) -> Any:
    labels = {} if label is None else {kind: label if isinstance(label, list) else [label]}
    return {
        "id": f"r{len(more)}{json.dumps(value)}{label}",
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": 40,
        "original_height": 30,
        "image_rotation": 0,
        "value": {**(BOX if value is None else value), **labels},
    } | more


def annotation(*regions: Any, **more: Any) -> Any:
    return {
        "id": 1,
        "completed_by": 1,
        "was_cancelled": False,
        "ground_truth": False,
        "result": [*regions],
    } | more


def task(
    *annotations: Any, image: Any = "/data/upload/1/0123abcd-a.jpg", number: int = 7, **more: Any
) -> Any:
    return {
        "id": number,
        "annotations": [*annotations],
        "predictions": [{"result": [region(label="robot")]}],
        "data": {"image": image},
    } | more


def pixels(channel: WrittenChannel) -> list[Any]:
    """The boxes of the channel's one image."""
    (record,) = channel.data().train.sample
    return [[round(number, 3) for number in box] for box in record.targets.boxes.tolist()]


def export(channel: WrittenChannel, *tasks: Any, name: str = "project-1.json") -> None:
    channel.write(name, json.dumps([*tasks]))


def test_read__json(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    path = channel.image("a.jpg")
    outline = region({"points": [[10, 10], [50, 20], [20, 90]]}, "polygonlabels", "bee")
    other = {"type": "choices", "value": {"choices": ["sharp"]}, "from_name": "quality", "to_name": "image"}
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    export(channel, task(annotation(region(), outline, other, relation)))
    with caplog.at_level(logging.INFO, "tilewise"):
        found = channel.read()
    (example,) = found.examples
    key = "/data/upload/1/0123abcd-a.jpg (project-1.json task 7)"
    assert (example.key, example.path, example.size) == (key, path, (40, 30))
    assert found.classes == ("ant", "bee") and example.targets.labels.tolist() == [0, 1]
    assert pixels(channel) == [[10, 3, 30, 9], [4, 3, 20, 27]]
    assert "channel train holds Label Studio JSON (project-1.json)" in caplog.messages
    assert "channel train: outlines become the upright boxes around them (polygons: 1)" in caplog.messages


def test_read__json_min(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    shape = {"original_width": 40, "original_height": 30}
    row = {
        "image": "/data/upload/1/0123abcd-a.jpg",
        "id": 7,
        "boxes": [{**BOX, **shape, "rectanglelabels": ["bee"]}],
        "areas": [
            {"points": [[10, 10], [50, 20], [20, 90]], **shape, "closed": True, "polygonlabels": ["ant"]}
        ],
        "quality": "sharp",
        "of_region": [{**BOX, **shape, "choices": ["blurred", "dark"]}],
        "annotator": 1,
        "annotation_id": 3,
        "created_at": "2024-01-01T00:00:00Z",
        "updated_at": "2024-01-01T00:00:00Z",
        "lead_time": 3.5,
    }
    export(channel, row)
    assert pixels(channel) == [[10, 3, 30, 9], [4, 3, 20, 27]]
    assert channel.read().classes == ("ant", "bee")


def test_read__json_min_of_two_annotators(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    rows = [
        {
            "image": f"{name}.jpg",
            "id": name,
            "label": [{**BOX, "width": width, "rectanglelabels": ["ant"]}] if width else [],
            "annotator": width,
            "annotation_id": width,
            "updated_at": f"2024-01-0{day}",
        }
        for name, width, day in (("a", 10, 1), ("a", 50, 3), ("a", 20, 2), ("b", None, 1))
    ]
    export(channel, *rows)
    assert pixels(channel) == [[10, 3, 30, 9]]
    assert any("1 tasks have several annotations" in message for message in caplog.messages)
    assert any("1 of 2 tasks have no annotation" in message for message in caplog.messages)


def test_annotations__which_one_counts(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abcdef":
        channel.image(f"{name}.jpg")

    def of(label: str, **more: Any) -> Any:
        return annotation(region(label=label), **more)

    export(
        channel,
        task(
            of("first", updated_at="2024-01-01"), of("last", updated_at="2024-01-02"), image="a.jpg", number=1
        ),
        task(of("truth", ground_truth=True), of("newer", updated_at="2024-09-09"), image="b.jpg", number=2),
        task(
            of("kept", updated_at="1"),
            of("skipped", updated_at="2", was_cancelled=True),
            image="c.jpg",
            number=3,
        ),
        task(of("cancelled", was_cancelled=True), image="d.jpg", number=4),
        task(image="e.jpg", number=5),
        task(annotation(), image="f.jpg", number=6),
    )
    found = channel.read()
    assert found.classes == ("kept", "last", "truth")
    names = [[found.classes[label] for label in example.targets.labels] for example in found.examples]
    assert names == [["last"], ["truth"], ["kept"], []]  # of d and e nobody knows what is on them
    assert any(
        "2 of 6 tasks have no annotation, or a cancelled one" in message for message in caplog.messages
    )
    assert any("2 tasks have several annotations" in message for message in caplog.messages)


def test_annotations__none_at_all(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    export(channel, task(total_annotations=0))
    assert channel.message() == (
        "channel train: project-1.json holds 1 tasks, but no annotation of one; predictions do not count: "
        "accept them in Label Studio, and export again"
    )


def test_annotations__of_an_old_version(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    content = task(image="a.jpg")
    content["completions"] = [annotation(region(), created_at=1580000000), annotation(skipped=True)]
    del content["annotations"]
    export(channel, content)
    assert pixels(channel) == [[10, 3, 30, 9]]


@pytest.mark.parametrize(
    ("value", "kind", "box"),
    [
        ({"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 0}, "ellipselabels", [10, 12, 30, 18]),
        ({"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 90}, "ellipselabels", [17, 5, 23, 25]),
        # turned about its upper left corner, in pixels: 20 px wide and 6 px high
        ({**BOX, "rotation": 90}, "rectanglelabels", [4, 3, 10, 23]),
        ({**BOX, "rotation": 180}, "rectanglelabels", [-10, -3, 10, 3]),
    ],
)
def test_shapes__boxes_around_them(channel: WrittenChannel, value: Any, kind: str, box: Any) -> None:
    channel.image("a.jpg")
    export(channel, task(annotation(region(value, kind))))
    assert pixels(channel) == [[max(number, 0) for number in box]]


def test_shapes__whose_label_is_a_result_of_its_own(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    shape = region(kind="rectangle", label=None, id="x")
    export(
        channel,
        task(annotation(shape, region(kind="labels", label="bee", id="x"), region(kind="labels", id="y"))),
    )
    found = channel.read()
    assert found.classes == ("ant", "bee") and found.examples[0].targets.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("file", "address"),
    [
        ("0123abcd-a.jpg", "/data/upload/0123abcd-a.jpg"),
        ("a.jpg", "/data/upload/4/0123abcd-a.jpg"),
        ("a.jpg", "0123abcd-a.jpg"),
        ("images/a.jpg", "/data/local-files/?d=images/a.jpg"),
        ("images/x y/a.jpg", "/data/local-files/?d=images%2Fx%20y%2Fa.jpg"),
        ("images/a.jpg", "/data/local-files/?d=C%3A%5Cme%5Cimages%5Ca.jpg"),
        ("x/a.jpg", "s3://bucket/some/x/a.jpg"),
        ("a.jpg", "s3://bucket/some/a.jpg"),
        ("a.jpg", "https://host/some/a.jpg?X-Amz-Signature=1/2"),
        ("größe 木.jpg", "https://host/gr%C3%B6%C3%9Fe%20%E6%9C%A8.jpg"),
        ("a.jpg", "http://[host/a.jpg"),
    ],
)
def test_image__found(channel: WrittenChannel, file: str, address: str) -> None:
    path = channel.image(file)
    channel.image("other.jpg")
    export(channel, task(annotation(region()), image=address))
    assert (channel.only().path, channel.only().problem) == (path, "")


def test_image__under_another_key(channel: WrittenChannel) -> None:
    path = channel.image("a.jpg")
    export(channel, task(annotation(region()), data={"batch": "x", "picture_of_today": "a.jpg", "n": 3}))
    assert channel.only().path == path


@pytest.mark.parametrize("address", ["../secret.jpg", "/data/local-files/?d=../secret.jpg", "b.jpg"])
def test_image__not_in_the_channel(channel: WrittenChannel, address: str) -> None:
    channel.image("../secret.jpg")
    export(channel, task(annotation(region()), image=address))
    assert channel.only().problem == f"its image {address} is not in the channel, or not only once"


def test_image__in_the_task_itself(channel: WrittenChannel) -> None:
    export(channel, task(annotation(region()), image="data:image/png;base64," + "A" * 10_000))
    assert len(channel.only().problem) < 200 and len(channel.only().key) < 200


def test_image__fetched_from_s3(
    channel: WrittenChannel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "fetched.png")
    asked: list[str] = []

    def fetch(addresses: list[str], who: str) -> dict[str, Path | str]:
        asked.extend(addresses)
        return {"s3://bucket/a.png": tmp_path / "fetched.png", "s3://bucket/b.png": "access denied"}

    monkeypatch.setattr(label_studio, "fetch_images", fetch)
    tasks = [task(annotation(region()), image=f"s3://bucket/{name}.png", number=ord(name)) for name in "ab"]
    export(channel, *tasks)
    first, second = channel.read().examples
    assert asked == ["s3://bucket/a.png", "s3://bucket/b.png"]
    assert (first.path, second.problem) == (tmp_path / "fetched.png", "access denied")


def test_image__in_two_tasks(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    export(channel, task(annotation(), image="a.jpg"), task(annotation(), image="a.jpg", number=8))
    assert channel.message() == (
        "a.jpg (project-1.json task 7) and a.jpg (project-1.json task 8) annotate the same image a.jpg: "
        "keep one, with all of its objects"
    )


def test_image__of_another_size(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    export(channel, task(annotation(region(original_width=30, original_height=40))))
    assert "its annotation says 30 x 40 pixels, but the image has 40 x 30" in channel.message()


def test_files__several_and_a_task_alone(channel: WrittenChannel) -> None:
    for name in "ab":
        channel.image(f"{name}.jpg")
    channel.write("1.json", json.dumps(task(annotation(region(label="bee")), image="a.jpg")))
    channel.write(
        "2.json", b"\xef\xbb\xbf" + json.dumps([task(annotation(region()), image="b.jpg")]).encode()
    )
    found = channel.read()
    assert found.classes == ("ant", "bee") and len(found.examples) == 2


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (
            region({"x": 1, "y": 2, "width": 0.5}, "keypointlabels", id="k"),
            "region k: it is a key point, which has no area: draw a box or a polygon, or delete it",
        ),
        (
            region({"rle": [1, 2], "format": "rle"}, "brushlabels", id="k"),
            "region k: it is a brush's mask, which is not supported: export the project as COCO with masks",
        ),
        (region(label=None, id="k"), "region k: its labels are [] (list): an object is of one class"),
        (
            region(label=["a", "b"], id="k"),
            'region k: its labels are ["a", "b"] (list): an object is of one class',
        ),
        (region(label=[" "], id="k"), 'region k: its label is " " (text), not the name of a class'),
        (region({"x": 1, "y": 2, "width": 3}, id="k"), "region k: its height is missing"),
        (region({**BOX, "x": "left"}, id="k"), 'region k: its x is "left" (text), not a number'),
        (
            region({**BOX, "width": 350}, id="k"),
            "region k: it reaches to 375, not a percentage of its image's width or height",
        ),
        (
            region({**BOX, "rotation": 5}, id="k", original_width=None),
            "region k: it is turned, and its image's original_width and original_height are missing",
        ),
        (
            region(id="k", image_rotation=90),
            "region k: the image was turned in Label Studio, which is not supported: turn the file",
        ),
        (
            region(id="k", item_index=1),
            "region k: the task shows several images, which is not supported: one image a task",
        ),
        (
            region({"sequence": []}, "videorectangle", None, id="k"),
            'region k is of the type "videorectangle" (text), which is no shape on an image',
        ),
        (
            region({"points": [[1, 2]]}, "polygonlabels", id="k"),
            "region k: its polygon has 1 points, which enclose no area",
        ),
    ],
)
def test_shapes__that_cannot_be_used(channel: WrittenChannel, wrong: Any, problem: str) -> None:
    channel.image("a.jpg")
    shape = {"original_width": None, "original_height": None} if wrong["original_width"] is None else {}
    export(channel, task(annotation(region() | shape, wrong)))
    example = channel.only()
    assert problem in (example.problem, *example.unread)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '[{"id": 3, "data": {}, "annotations": [{"result": 7}]}]',
            "project.json tasks[0] is not Label Studio's JSON: Expected `array`, got `int` - at `$.ann",
        ),
        (
            '[{"data": {}, "annotations": [{"result": []}]}',
            "project.json tasks[1] is not valid JSON: Expecting value",
        ),
        (
            '{"result": "annotations", "data": "annotations": "result": 3}',
            "project.json tasks[0] is not valid JSON: Expecting ',' delimiter",
        ),
    ],
)
def test_file__that_cannot_be_used(channel: WrittenChannel, content: str, message: str) -> None:
    channel.image("a.jpg")
    channel.write("project.json", content)
    assert channel.message().startswith(message)


def test_file__is_read_in_pieces(channel: WrittenChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        channel.image(f"{number}.jpg")
    tasks = [task(annotation(region(label="a" * number)), image=f"{number}.jpg") for number in range(1, 20)]
    channel.write("project.json", json.dumps(tasks, indent=2))
    whole = channel.read()
    monkeypatch.setattr(label_studio, "CHUNK", 7)
    pieces = channel.read()
    assert pieces.classes == whole.classes and len(pieces.examples) == 19
    assert [one.key for one in pieces.examples] == [one.key for one in whole.examples]


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.sampled_from(["a.png", "ant", "rectanglelabels"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "data",
                    "annotations",
                    "result",
                    "value",
                    "type",
                    "x",
                    "y",
                    "width",
                    "points",
                    "rectanglelabels",
                    "id",
                ]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(st.binary(max_size=100) | _VALUES.map(lambda value: json.dumps([value]).encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything(tmp_path: Path, content: bytes) -> None:
    if not (tmp_path / "a.png").exists():
        Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_bytes(content)
    try:
        read_label_studio({"a.json": tmp_path / "a.json"}, Folder(tmp_path), "train")
    except UserError as error:
        assert "a.json" in str(error)


def test_validation__in_another_format(channel: WrittenChannel, tmp_path: Path) -> None:
    channel.image("a.jpg")
    export(channel, task(annotation(region(label="bee"), region()), image="a.jpg"))
    data = data_with_yolo_validation(channel, tmp_path, "bee")
    assert data.classes == ("ant", "bee") and data.validation is not None
    assert data.validation.sample[0].targets.labels.tolist() == [1]


def test_real_data__as_coco_has_it(
    channel: WrittenChannel, compare_with_coco: Callable[..., DataSet]
) -> None:
    def write(images: Any, classes: list[str]) -> None:
        tasks = []
        for number, (image, rows) in enumerate(images):
            width, height = image["width"], image["height"]
            regions = [
                region(
                    {
                        "x": 100 * x / width,
                        "y": 100 * y / height,
                        "width": 100 * w / width,
                        "height": 100 * h / height,
                    },
                    label=name,
                    original_width=width,
                    original_height=height,
                    id=str(index),
                )
                for index, (name, (x, y, w, h)) in enumerate(rows)
            ]
            tasks.append(task(annotation(*regions), image=f"s3://b/{image['file_name']}", number=number))
        export(channel, *tasks)

    compare_with_coco(channel.root, write)
