from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tilewise.data.channel import DataSet
from tilewise.data.files.folder import Folder
from tilewise.data.formats.azure_jsonl import read_azure_jsonl
from tilewise.errors import UserError
from written_channel import WrittenChannel

STORE = "azureml://subscriptions/1/resourcegroups/g/workspaces/w/datastores/d/paths/"


def box(label: Any = "ant", *corners: Any, **more: Any) -> dict[str, Any]:
    names = ("topX", "topY", "bottomX", "bottomY")
    return {"label": label, **dict(zip(names, corners or (0.1, 0.2, 0.5, 0.8), strict=True)), **more}


def line(name: str, *boxes: Any, **more: Any) -> dict[str, Any]:
    details = {"format": "jpg", "width": "40px", "height": "30px"}
    return {
        "image_url": name if "://" in name else STORE + name,
        "image_details": details,
        "label": list(boxes),
        **more,
    }


def test_read__as_azure_documents_it(channel: WrittenChannel) -> None:
    paths = [channel.image(name) for name in ("a.jpg", "b.png")]
    channel.lines(
        line(
            "odFridge/a.jpg",
            box("milk", 0.25, 0.5, 0.75, 1.0, isCrowd="false"),
            box("can", 0, 0, 1, 0.5, isCrowd=1),
        ),
        line("odFridge/b.png", box("ant", isCrowd=False)),
    )
    found = channel.read()
    assert found.classes == ("ant", "can", "milk")
    first, second = found.examples
    assert [first.path, second.path] == paths and first.size == (40, 30)
    assert first.key == "odFridge/a.jpg (train.jsonl line 1)"
    assert first.targets.labels.tolist() == [2, 1] and first.targets.ignored.tolist() == [False, True]
    assert second.targets.labels.tolist() == [0] and second.targets.ignored.tolist() == [False]
    records = channel.data().train.sample
    assert records[0].targets.boxes.tolist() == [[10, 15, 30, 30], [0, 0, 40, 15]]
    assert (records[0].width, records[0].height) == (40, 30)


@pytest.mark.parametrize(
    "content_type", ["", "application/jsonlines", "application/x-jsonlines", "image/png"]
)
@pytest.mark.parametrize("name", ["train.jsonl", "a.json", "deep/train.JSONL"])
def test_channel__recognises_it(channel: WrittenChannel, name: str, content_type: str) -> None:
    channel.image("a.jpg")
    channel.lines(line("a.jpg", box()), name=name)
    channel.content_type = content_type
    assert channel.data().classes == ("ant",)


def test_channel__other_content_type(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.lines(line("a.jpg", box()))
    channel.content_type = "application/x-recordio"
    assert "it holds Azure JSON lines (train.jsonl): correct" in channel.message()


def test_channel__coco_of_one_line_is_none(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "image_url": "x"}],
        "annotations": [],
        "image_url": "y",
    }
    categories = [{"id": 1, "name": "ant"}]
    (channel.root / "coco.json").write_text(json.dumps({**coco, "categories": categories}))
    assert channel.data().classes == ("ant",)


@pytest.mark.parametrize("other", ["a.xml", "a.txt", "coco.json", "a.rec", "a.manifest"])
def test_channel__another_format_beside(channel: WrittenChannel, other: str) -> None:
    channel.image("a.jpg")
    channel.lines(line("a.jpg", box()))
    contents = {"xml": "<annotation>", "json": '{"images": []}', "manifest": '{"source-ref": "s3://a/b"}'}
    (channel.root / other).write_text(contents.get(other.split(".")[1], ""))
    text = channel.message()
    assert (
        "Azure JSON lines (train.jsonl)" in text
        and f"({other})" in text
        and text.endswith(": keep one format")
    )


@pytest.mark.parametrize(
    ("on_disk", "address"),
    [
        ("a.jpg", STORE + "x/a.jpg"),
        ("x/a.jpg", STORE + "x/a.jpg"),
        ("images/x/a.jpg", STORE + "x/a.jpg"),
        ("elsewhere/a.jpg", STORE + "x/a.jpg"),
        ("x/paths/a.jpg", "azureml://datastores/d/paths/x/paths/a.jpg"),
        ("x/a.jpg", "AmlDatastore://x/a.jpg"),
        ("größe 木/a.jpg", STORE + "größe 木/a.jpg"),
        ("mit Raum/a b.jpg", STORE + "mit%20Raum/a%20b.jpg"),
        ("100%20.jpg", STORE + "100%20.jpg"),
        ("a.jpg", "https://account.blob.core.windows.net/container/a.jpg"),
        ("a.jpg", "a.jpg"),
    ],
)
def test_image__found(channel: WrittenChannel, on_disk: str, address: str) -> None:
    path = channel.image(on_disk)
    channel.lines(line("x", image_url=address))
    assert channel.only().path == path


@pytest.mark.parametrize(
    "address", [STORE + "b.jpg", "http://localhost/b.jpg", STORE + "../b.jpg", "file:///b.jpg"]
)
def test_image__not_in_the_channel(channel: WrittenChannel, address: str) -> None:
    channel.image("../b.jpg")
    channel.lines(line("x", image_url=address))
    assert channel.only().problem.endswith("b.jpg is not in the channel, or not only once")


def test_image__in_two_lines(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.lines(line("a.jpg"), line("x/a.jpg"))
    assert channel.message() == (
        "a.jpg (train.jsonl line 1) and x/a.jpg (train.jsonl line 2) annotate the same image a.jpg: "
        "keep one, with all of its objects"
    )


@pytest.mark.parametrize(
    ("details", "size"),
    [
        ({"width": "40px", "height": "30px"}, (40, 30)),
        ({"width": 40, "height": 30}, (40, 30)),
        ({"width": "40", "height": 30.0}, (40, 30)),
        ({"format": "jpg"}, None),
        ({"width": 40}, None),
        (None, None),
    ],
)
def test_size(channel: WrittenChannel, details: Any, size: Any) -> None:
    channel.image("a.jpg")
    channel.lines(line("a.jpg", image_details=details))
    assert channel.only().size == size


def test_size__of_another_image(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.lines(line("a.jpg", box(), image_details={"width": "41px", "height": "30px"}))
    assert "its annotation says 41 x 30 pixels, but the image has 40 x 30" in channel.message()


@pytest.mark.parametrize(
    ("crowd", "ignored"),
    [
        (0, False),
        (1, True),
        ("0", False),
        ("1", True),
        ("true", True),
        ("False", False),
        (True, True),
        (None, False),
    ],
)
def test_crowd(channel: WrittenChannel, crowd: Any, ignored: bool) -> None:
    channel.image("a.jpg")
    channel.lines(line("a.jpg", box(isCrowd=crowd)))
    assert channel.only().targets.ignored.tolist() == [ignored]


def test_polygon__box_around_it(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    item = {
        "label": "can",
        "isCrowd": 0,
        "polygon": [[0.5, 0.1, 0.9, 0.6, 0.25, 0.5], [0.5, 0.5, 0.75, 0.75, 0.5, 0.5]],
    }
    channel.lines(line("a.jpg", item))
    assert channel.data().train.sample[0].targets.boxes[0].tolist() == pytest.approx([10, 3, 36, 22.5])


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("{", "the line is not valid JSON: "),
        ("[]", "the line is not one JSON object, {…}"),
        ({"label": []}, "its image_url is null, not the address of an image"),
        (
            line("b.jpg", label="can"),
            'label is "can" (text), not a list of boxes: give the lines of an object detection task',
        ),
        (line("b.jpg", label=["can"]), 'label[0]: it is "can" (text), not an object with label, topX'),
        (line("b.jpg", box(), {"label": "ant", "topX": 1}), "label[1]: the key 'topY' is missing"),
        (line("b.jpg", box(0.5)), "label[0]: its label is 0.5 (number), not a name"),
        (line("b.jpg", box(" ")), 'label[0]: its label is " " (text), not a name'),
        (line("b.jpg", box("ant", "x", 0, 1, 1)), 'label[0]: its topX is "x" (text), not a number'),
        (line("b.jpg", box("ant", 10**400, 0, 1, 1)), "label[0]: its topX is 1000000"),
        (
            line("b.jpg", {"label": "a", "polygon": [[1, 2, 3]]}),
            "label[0]: its polygon has a segment of 3 numbers, not x and y of 3 points or more",
        ),
        (
            line("b.jpg", box("ant", 12, 0, 30, 20)),
            "a box has the coordinate 12, not a fraction of its image's",
        ),
        (
            line("b.jpg", image_details={"width": "wide", "height": 3}),
            'image_details has the sides "wide" (text) and 3 (number), not pixels such as "640px"',
        ),
    ],
)
def test_lines__broken_ones_are_named(channel: WrittenChannel, broken: Any, problem: str) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    channel.lines(line("a.jpg", box()), broken)
    good, bad = channel.read().examples
    assert good.problem == "" and bad.problem.startswith(problem)
    assert bad.key.removesuffix(")").endswith("train.jsonl line 2")


def test_boxes__one_without_a_coordinate_is_dropped(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.lines(line("a.jpg", box("ant", None, 0.2, 0.5, 0.8), box("bee")))
    data = channel.data()
    assert data.classes == ("bee",)
    assert data.train.sample[0].targets.labels.tolist() == [0]
    (reason,) = data.train.issues.dropped
    assert reason == "a.jpg (train.jsonl line 1): label[0]: its topX is null, not a number"


def test_label__may_be_a_number(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.lines(line("a.jpg", box(7)))
    assert channel.read().classes == ("7",)


def test_boxes__not_finite_or_far_too_large_are_dropped(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.lines(
        line(
            "a.jpg",
            box(),
            box("ant", 0, 0, float("inf"), 1),
            box("ant", 0, 0, 1e300, 1),
            box("ant", 0, 0, 0, 1),
            *(box("ant", 0, 0, 0.001 * number, 1) for number in range(100, 160)),
        )
    )
    data = channel.data()
    assert len(data.train.sample[0].targets.boxes) == 61 and len(data.train.issues.dropped) == 3


@given(
    st.lists(
        st.binary(max_size=40)
        | st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [*box(), "isCrowd", "polygon", "image_url", "image_details", "width", "height"]
                    ),
                    inner,
                    max_size=5,
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
        max_size=4,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything(tmp_path: Path, lines: list[bytes]) -> None:
    if not (tmp_path / "a.png").exists():
        Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join(line.replace(b'"image_url": "', b'"image_url": "a.png') for line in lines))
    try:
        read_azure_jsonl({file.name: file}, Folder(tmp_path))
    except UserError:
        pass


def test_real_data__as_coco_has_it(
    channel: WrittenChannel, compare_with_coco: Callable[..., DataSet]
) -> None:
    def write(images: Any, classes: list[str]) -> None:
        lines = []
        for image, rows in images:
            width, height = image["width"], image["height"]
            corners = [(name, x, y, x + w, y + h) for name, (x, y, w, h) in rows]
            boxes = [box(name, x / width, y / height, r / width, b / height) for name, x, y, r, b in corners]
            details = {"width": f"{width}px", "height": f"{height}px"}
            lines.append(line(image["file_name"], *boxes, image_details=details))
        channel.lines(*lines)

    compare_with_coco(channel.root, write)
