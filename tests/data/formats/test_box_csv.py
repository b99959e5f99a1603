from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tilewise.data.channel import DataSet
from tilewise.data.files.folder import Folder
from tilewise.data.formats.box_csv import columns_of, read_box_csv
from written_channel import WrittenChannel

TENSORFLOW = (
    "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    "a.jpg,40,30,bee,1,2,11,14\na.jpg,40,30,ant,3.5,2,20,25.25\nb.jpg,40,30,ant,0,0,40,30\n"
)


def test_read__as_tensorflows_tutorials_and_roboflow_have_it(channel: WrittenChannel) -> None:
    paths = [channel.image(name) for name in ("a.jpg", "b.jpg")]
    channel.write("_annotations.csv", TENSORFLOW)
    found = channel.read()
    first, second = found.examples
    assert first.key == "a.jpg (_annotations.csv line 2)" and [first.path, second.path] == paths
    assert found.classes == ("ant", "bee") and first.size == second.size == (40, 30)
    assert first.targets.labels.tolist() == [1, 0] and second.targets.labels.tolist() == [0]
    assert first.targets.boxes.tolist() == [[1, 2, 11, 14], [3.5, 2, 20, 25.25]]
    assert not first.targets.ignored.any()


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        (['"image","xmin","ymin","xmax","ymax","label"', '"a.jpg",1,2,11,14,"ant"'], ("ant",)),  # VoTT
        (["image_path,xmin,ymin,xmax,ymax,label", "a.jpg,1,2,11,14,Tree"], ("Tree",)),  # DeepForest
        (["data/images/a.jpg,1,2,11,14,ant"], ("ant",)),  # keras-retinanet
        (["image_id,width,height,bbox,source", 'a,40,30,"[1.0, 2.0, 10.0, 12.0]",arvalis_1'], ("object",)),
        (["Image Name;Class Name;x;y;w;h", "a.jpg;ant;1;2;10;12"], ("ant",)),
        (["path\tcategory\tx\ty\twidth\theight", "a.jpg\tant\t1\t2\t10\t12"], ("ant",)),
        (["filename,class_id,xmin,ymin,xmax,ymax", "a.jpg,7,1,2,11,14"], ("7",)),
        (["file_name,x_min,y_min,x_max,y_max,category", "C:\\data\\a.jpg, 1, 2, 11, 14, ant"], ("ant",)),
        (["\ufefffilename,class,left,top,right,bottom,difficult", "a.jpg,ant,1,2,11,14,0"], ("ant",)),
    ],
)
def test_read__other_titles(channel: WrittenChannel, lines: list[str], labels: tuple[str, ...]) -> None:
    channel.image("a.jpg")
    channel.write("boxes.csv", "\r\n".join([*lines, ""]))
    found = channel.read()
    (example,) = found.examples
    assert not example.problem and not example.unread and found.classes == labels
    assert example.targets.boxes.tolist() == [[1, 2, 11, 14]]


def test_read__no_column_for_the_class(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    channel.image("a.jpg")
    channel.write("boxes.csv", "filename,species,xmin,ymin,xmax,ymax\na.jpg,ant,1,2,11,14\n")
    assert channel.read().classes == ("object",)
    assert (
        "boxes.csv has no column for the class, such as class or label (its columns are filename, species, "
        "xmin, ymin, xmax, ymax): all of its objects are of one class, object"
    ) in caplog.text


def test_read__empty_cells_are_an_image_without_objects(
    channel: WrittenChannel, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        channel.image(name)
    channel.write("train.csv", "a.jpg,1,2,11,14,ant\nb.jpg,,,,,\n")
    channel.write("_classes.csv", "ant,0\n")
    with caplog.at_level(logging.INFO, "tilewise"):
        first, second = channel.read().examples
    assert len(first.targets) == 1 and len(second.targets) == 0 and not second.problem
    assert "1 of its images are not annotated in train.csv and not used, such as c.jpg: an" in caplog.text
    assert "_classes.csv hold no boxes and are passed over" in caplog.text


def test_read__ignored_boxes(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write(
        "x.csv", "filename,class,xmin,ymin,xmax,ymax,iscrowd\na.jpg,ant,1,2,11,14,1\na.jpg,ant,2,2,9,9,0\n"
    )
    assert channel.only().targets.ignored.tolist() == [True, False]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a.jpg,40,30,ant,1,2,11", "x.csv line 3: it has 7 cells, and the first row 8"),
        ("a.jpg,40,30,ant,1,2,x,14", 'x.csv line 3: its box has "x" (text), not a number'),
        ("a.jpg,40,30,ant,1,2,,14", 'x.csv line 3: its box has "" (text), not a number'),
        ("a.jpg,40,30,,1,2,11,14", "x.csv line 3: its class is empty"),
    ],
)
def test_read__bad_rows_are_named(channel: WrittenChannel, row: str, problem: str) -> None:
    channel.image("a.jpg")
    lines = TENSORFLOW.splitlines()
    channel.write("x.csv", "\n".join([*lines[:2], row]))
    example = channel.only()
    assert len(example.targets) == 1 and example.unread == (problem,)


def test_read__a_list_that_is_none(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("x.csv", 'image_id,bbox\na,"[1, 2, 3]"\na,"__import__(\'os\')"\na,"[1, 2, 3, 4]"\n')
    example = channel.only()
    assert len(example.targets) == 1 and "its box has 3 numbers, not 4" in example.unread[0]
    assert "not a list of four numbers" in example.unread[1]


def test_read__images_that_are_missing_or_named_twice(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("x.csv", TENSORFLOW)
    missing = channel.read().examples[1]
    assert missing.problem == "its image b.jpg is not in the channel, or not only once"
    channel.write("y.csv", TENSORFLOW)
    assert "x.csv line 2" in channel.message() and "y.csv line 2" in channel.message()


def test_read__another_file_beside_images_is_not_taken(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("sample_submission.csv", "image_id,PredictionString\na,1.0 0 0 50 50\n")
    assert "no annotations of a known form" in channel.message()


def test_read__fractions(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    channel.image("a.jpg")
    channel.write("x.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,ant,0.25,0.2,0.5,1\n")
    (record,) = channel.data().train.sample
    assert record.targets.boxes.tolist() == [[10, 6, 20, 30]]


@pytest.mark.parametrize("row", [[], ["a"], ["a.jpg", "ant"], ["x", "y", "w", "h"], list("abcdef")])
def test_columns__of_no_boxes(row: list[str]) -> None:
    assert columns_of(row) is None


def _write(images: Any, _: list[str], folder: Path) -> None:
    with (folder / "boxes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
        for image, objects in images:
            start = [image["file_name"], image["width"], image["height"]]
            for name, (x, y, w, h) in objects:
                rows.writerow([*start, name, x, y, x + w, y + h])
            if not objects:
                rows.writerow([*start, "", "", "", "", ""])


def test_read__real_data_as_coco_has_it(compare_with_coco: Callable[..., DataSet], tmp_path: Path) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    compare_with_coco(folder, lambda images, names: _write(images, names, folder))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_read__any_bytes_after_the_titles(tmp_path: Path, content: bytes) -> None:
    from tilewise.errors import UserError

    path = tmp_path / "x.csv"
    path.write_bytes(b"filename,class,xmin,ymin,xmax,ymax\n" + content)
    try:
        read_box_csv({"x.csv": path}, Folder(tmp_path), "train")
    except UserError as error:
        assert "x.csv" in str(error)
