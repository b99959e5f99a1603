from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tilewise.data.annotations import ChannelSource
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from tilewise.data.files.folder import Folder
from tilewise.data.formats.yolo import find_yolo
from tilewise.errors import UserError
from written_channel import WrittenChannel


def test_read__as_ultralytics_has_it(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    paths = [channel.image(f"images/train/{name}.jpg") for name in "abc"]
    channel.write("labels/train/a.txt", "1 0.5 0.5 0.25 0.5\n0 0.25 0.5 0.5 1.0\n")
    channel.write("labels/train/b.txt", "")
    channel.write("data.yaml", "path: ../x\ntrain: images/train\nnames:\n  0: ant\n  1: bee\n  2: cat\n")
    channel.write("README.txt", "Made by hand.")
    channel.write("train.txt", "./images/train/a.jpg\n")
    with caplog.at_level(logging.INFO, "tilewise"):
        found = channel.read()
    assert found.classes == ("ant", "bee", "cat")
    assert [example.path for example in found.examples] == paths
    first, second, third = found.examples
    assert first.key == "images/train/a.jpg" and first.targets.labels.tolist() == [1, 0]
    assert (
        not second.problem
        and not third.problem
        and len(second.targets.boxes) == len(third.targets.boxes) == 0
    )
    assert channel.data().train.sample[0].targets.boxes.tolist() == [[15, 7.5, 25, 22.5], [0, 0, 20, 30]]
    assert "channel train holds YOLO text files (labels/train/a.txt, labels/train/b.txt)" in caplog.messages
    told = "channel train: 1 of 3 images have no text file: they count as images without objects"
    assert told in caplog.messages


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("a.jpg", "a.txt"),
        ("a.PNG", "a.TXT"),
        ("images/a.jpg", "labels/a.txt"),
        ("images/a.jpg", "a.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("images/train/x/a.jpg", "labels/train/x/a.txt"),
        ("a.jpg", "labels/a.txt"),
        ("obj_train_data/a.jpg", "obj_train_data/a.txt"),
        ("images/mit Raum/größe 木.jpg", "labels/mit Raum/größe 木.txt"),
        ("images/v1.2.jpg", "labels/v1.2.txt"),
    ],
)
@pytest.mark.parametrize("separate", [False, True])
def test_image__found(channel: WrittenChannel, tmp_path: Path, image: str, text: str, separate: bool) -> None:
    path = channel.image(image)
    channel.annotations = tmp_path / "train_annotation" if separate else channel.root
    channel.write(text, "0 0.5 0.5 0.1 0.1")
    example = channel.only()
    assert (example.key, example.path, len(example.targets.boxes)) == (image, path, 1)


def test_image__of_one_name_in_two_folders(channel: WrittenChannel) -> None:
    for number, folder in enumerate(("train", "val")):
        channel.image(f"images/{folder}/a.jpg")
        channel.write(f"labels/{folder}/a.txt", f"{number} 0.5 0.5 0.1 0.1")
    assert [example.targets.labels.tolist() for example in channel.read().examples] == [[0], [1]]


def test_image__with_two_text_files(channel: WrittenChannel) -> None:
    channel.image("images/a.jpg")
    channel.write("labels/a.txt", "")
    channel.write("images/a.txt", "")
    text = channel.message()
    assert (
        text == "channel train: images/a.txt and labels/a.txt are for the same image images/a.jpg: keep one"
    )


def test_images__of_which_either_may_be_a_text_files_are_not_taken_for_empty(channel: WrittenChannel) -> None:
    for name in ("images/a.jpg", "images/a.png", "images/b.jpg", "images/x/c.jpg", "images/y/c.jpg"):
        channel.image(name)
    channel.write("labels/a.txt", "0 0.5 0.5 0.1 0.1")
    channel.write("labels/b.txt", "0 0.5 0.5 0.1 0.1")
    channel.write("labels/c.txt", "0 0.5 0.5 0.1 0.1")
    problems = {example.key: example.problem for example in channel.read().examples}
    assert problems == {
        "images/a.jpg": "labels/a.txt may be for it, or for another image of that name",
        "images/a.png": "labels/a.txt may be for it, or for another image of that name",
        "images/b.jpg": "",
        "images/x/c.jpg": "labels/c.txt may be for it, or for another image of that name",
        "images/y/c.jpg": "labels/c.txt may be for it, or for another image of that name",
        "labels/a.txt": "its image a.* is not in the channel, or not only once",
        "labels/c.txt": "its image c.* is not in the channel, or not only once",
    }


def test_image__missing(channel: WrittenChannel) -> None:
    channel.image("images/a.jpg")
    channel.write("labels/a.txt", "")
    channel.write("labels/b.txt", "0 0.5 0.5 0.1 0.1")
    channel.write("labels/classes.txt", "ant\n")
    _, example = channel.read().examples
    assert (example.key, example.problem) == (
        "labels/b.txt",
        "its image b.* is not in the channel, or not only once",
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.yaml", "names: [ant, 'no']\nnc: 2"),
        ("my data.yml", "nc: 2\nnames:\n- ant\n- no\n"),
        ("data.yaml", "names: {1: no, 0: ant}"),
        ("data.yaml", "nc: 2\nnames: {1: no, 0: ant}"),
        ("data.yaml", "{nc: 2, names: [ant, no]}"),
        ("dataset.yaml", '{"names": ["ant", "no"]}'),
        ("classes.txt", "ant\nno\n"),
        ("labels/classes.txt", "\ufeffant\r\nno"),
        ("obj.names", "ant\nno\n"),
    ],
)
def test_names(channel: WrittenChannel, name: str, content: str) -> None:
    channel.image("images/a.jpg")
    channel.write("labels/a.txt", "1 0.5 0.5 0.1 0.1")
    channel.write(name, content)
    assert channel.read().classes == ("ant", "no")


def test_names__sparse(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", "7 0.5 0.5 0.1 0.1\n3 0.5 0.5 0.1 0.1")
    channel.write("data.yaml", "nc: 8\nnames: {7: bee, 3: ant}")
    assert channel.read().classes == ("ant", "bee") and channel.only().targets.labels.tolist() == [1, 0]


def test_names__none(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", "2 0.5 0.5 0.1 0.1")
    channel.write("compose.yaml", "services: [x")
    assert channel.read().classes is None
    assert channel.data().classes == ("0", "1", "2") and len(channel.data(5).classes) == 5


def test_names__in_several_files(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", "0 0.5 0.5 0.1 0.1")
    channel.write("data.yaml", "names: [ant, bee]")
    channel.write("classes.txt", "ant\nbee")
    assert channel.read().classes == ("ant", "bee")
    channel.write("classes.txt", "bee\nant")
    assert channel.message() == "channel train: classes.txt and data.yaml name different classes: keep one"


def test_names__of_an_export_whose_folder_the_channel_is(channel: WrittenChannel) -> None:
    channel.image("images/a.jpg")
    channel.write("labels/a.txt", "1 0.5 0.5 0.1 0.1 0.5 0.5 2")
    channel.write("../data.yaml", "names: [ant, bee]\nkpt_shape: [1, 3]\ntrain: ../train/images")
    assert channel.read().classes == ("ant", "bee")
    assert channel.only().targets.boxes[0].tolist() == pytest.approx([0.45, 0.45, 0.55, 0.55])
    channel.write("classes.txt", "cat\ndog")
    assert channel.read().classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("data.yaml", "names: [ant", "data.yaml is not valid YAML: while parsing"),
        ("data.yaml", "names: " + "[" * 5000, "data.yaml is not valid YAML: "),
        ("data.yaml", "names: 3", "data.yaml: its names must be a list of names, or map class ids to names"),
        ("data.yaml", "names: [[ant]]", "data.yaml: its names must be a list of names, or map"),
        ("data.yaml", "names: {ant: 0}", "data.yaml: its names must be a list of names, or map"),
        ("data.yaml", "names: {-1: ant}", "data.yaml: its names must be a list of names, or map"),
        ("data.yaml", "names: [ant, ant]", "data.yaml has two classes of the same name, of ant, ant"),
        ("data.yaml", "names: []", "data.yaml has no class names"),
        (
            "data.yaml",
            "nc: 3\nnames: [ant, bee]",
            "data.yaml names 2 classes, but its nc is 3: correct the one",
        ),
        ("data.yaml", "nc: [2]\nnames: [ant, bee]", "data.yaml names 2 classes, but its nc is "),
        ("classes.txt", "", "classes.txt has no class names"),
        ("classes.txt", "ant\n\nbee", "classes.txt has an empty class name"),
        ("classes.txt", b"ant\xff", "classes.txt is not UTF-8 text: "),
    ],
)
def test_names__faulty(channel: WrittenChannel, name: str, content: str | bytes, reason: str) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", "0 0.5 0.5 0.1 0.1")
    channel.write(name, content)
    assert channel.message().startswith(f"channel train: {reason}")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ant 0.5 0.5 0.1 0.1", 'the class "ant" (text) is not 0, 1, 2, …'),
        (
            "0;0.5;0.5;0.1;0.1",
            'the class "0;0.5;0.5;0.1;0.1" (text) is not 0, 1, 2, …: separate values by blanks',
        ),
        ("-1 0.5 0.5 0.1 0.1", 'the class "-1" (text) is not 0, 1, 2, …'),
        ("0.5 0.5 0.5 0.1 0.1", 'the class "0.5" (text) is not 0, 1, 2, …'),
        ("nan 0.5 0.5 0.1 0.1", 'the class "nan" (text) is not 0, 1, 2, …'),
        ("2 0.5 0.5 0.1 0.1", "the class 2 has no name: 2 classes from 0 to 1 have one"),
        (
            "0 0.5 0.5 0.1",
            "it has 4 numbers, but a box has 5 (class, centre x, centre y, width, height) and a poly",
        ),
        (
            "0 0.5 0.5 0.1 0.1 0.9",
            "it has 6 numbers, the last one a confidence as predictions have it: give the",
        ),
        ("0 0.5 0.5 0.1 0.1 0.9 0.5 0.5", "it has 8 numbers, but a box has 5"),
        ("0 0.5 0.5 0.1 \xff", 'it has "ÿ" (text), not a number'),
        ("0 0,5 0,5 0,1 0,1", 'it has "0,5" (text), not a number: write decimals with a point'),
    ],
)
def test_lines__broken_ones_are_named(channel: WrittenChannel, line: str, problem: str) -> None:
    channel.image("a.jpg")
    channel.write("labels/a.txt", f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    channel.write("data.yaml", "names: [ant, bee]")
    example = channel.only()
    assert example.key == "a.jpg" and example.problem.startswith(f"labels/a.txt line 3: {problem}")


def test_lines__pixels(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", "0 20 15 10 10")
    assert channel.only().problem == (
        "a.txt line 1: its box reaches to 25, not a fraction of its image's width or height"
    )


def test_lines__polygons(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", "0 0.5 0.1 0.75 0.5 0.25 0.5\n1.0 0 0 0.5 0 0.5 0.5 0 0.5\n")
    records = channel.data().train.sample
    np.testing.assert_allclose(records[0].targets.boxes, [[10, 3, 30, 15], [0, 0, 20, 15]], rtol=1e-6)
    assert records[0].targets.labels.tolist() == [0, 1]


def test_lines__keypoints_of_a_pose_data_set_are_no_polygon(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.9 0.9 1\n")
    channel.write("data.yaml", "names: [ant]\nkpt_shape: [2, 3]  # x, y, visible\n")
    np.testing.assert_allclose(channel.data().train.sample[0].targets.boxes, [[10, 7.5, 30, 22.5]], rtol=1e-6)


def test_lines__other_ends_and_marks(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", b"\xef\xbb\xbf0 0.5\t0.5  0.1 0.1\r\n\r\n1 5e-1 .5 0.1 0.1\r")
    assert channel.only().targets.labels.tolist() == [0, 1]


def test_boxes__without_area_are_dropped(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write(
        "a.txt",
        "0 0.5 0.5 0 0.1\n0 0.5 0.5 inf 0.1\n0 0.5 0.5 nan 1\n"
        + "".join(f"0 0.5 0.5 0.1 {0.1 + number / 100}\n" for number in range(60)),
    )
    data = channel.data()
    assert len(data.train.sample[0].targets.boxes) == 60 and len(data.train.issues.dropped) == 3


def test_channel__text_that_stands_for_no_image_is_none(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("README.txt", "0 0.5 0.5 0.1 0.1")
    assert "no annotations of a known form" in channel.message()
    channel.write(
        "coco.json", json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]})
    )
    assert channel.read().classes == ("x",)


def test_channel__notes_of_label_studio_are_no_format(channel: WrittenChannel) -> None:
    channel.image("images/a.jpg")
    channel.write("labels/a.txt", "0 0.5 0.5 0.1 0.1")
    channel.write("classes.txt", "ant")
    channel.write("notes.json", '{"categories": [{"id": 0, "name": "ant"}], "info": {"year": 2024}}')
    assert channel.data().classes == ("ant",)


def test_channel__another_format_beside(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", "0 0.5 0.5 0.1 0.1")
    channel.write("coco.json", '{"images": []}')
    assert channel.message() == (
        "channel train holds COCO (coco.json) and YOLO text files (a.txt): keep one format"
    )


def test_channel__names_in_train_only(channel: WrittenChannel, tmp_path: Path) -> None:
    other = WrittenChannel(tmp_path / "2")
    for one in (channel, other):
        one.image("a.jpg")
        one.write("a.txt", "0 0.5 0.5 0.1 0.1")
    channel.write("data.yaml", "names: [ant]")
    folders = {"train": ChannelFolder(channel.root), "validation": ChannelFolder(other.root)}
    with pytest.raises(UserError, match="name the classes in all of them or in none"):
        read_data_set(folders, None, validates=True, seed=0)


_WORDS = st.sampled_from(["0", "1", "9", "-1", "0.5", "0.25", "1e999", "nan", "-inf", "x", "", "\xff", "120"])


@given(
    st.binary(max_size=60)
    | st.lists(st.lists(_WORDS, max_size=10).map(" ".join)).map(lambda x: "\n".join(x).encode()),
    st.binary(max_size=30)
    | st.text(max_size=20).map(lambda text: f"names: {text}".encode())
    | st.sampled_from(
        [b"names: [a, b]", b"names: {0: a, x: b}", b"names: &a [*a]", b"names: !!python/name:os.system"]
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything(tmp_path: Path, content: bytes, names: bytes) -> None:
    if not (tmp_path / "a.png").exists():
        Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "data.yaml").write_bytes(names)
    folder = Folder(tmp_path)
    found = find_yolo(ChannelSource("train", folder, folder, "train"))
    assert found
    try:
        (example,) = found.read().examples
    except UserError:
        return
    assert example.problem or example.targets.boxes.shape == (len(example.targets.labels), 4)


def test_real_data__as_coco_has_it(
    channel: WrittenChannel, compare_with_coco: Callable[..., DataSet]
) -> None:
    def write(images: Any, classes: list[str]) -> None:
        channel.write("data.yaml", f"names: {json.dumps(classes)}")
        for image, rows in images:
            lines = []
            for name, (x, y, width, height) in rows:
                across, down = image["width"], image["height"]
                numbers = ((x + width / 2) / across, (y + height / 2) / down, width / across, height / down)
                lines.append(" ".join([str(classes.index(name)), *(f"{number:.8f}" for number in numbers)]))
            channel.write(f"labels/{Path(image['file_name']).stem}.txt", "\n".join(lines))

    compare_with_coco(channel.root, write)
