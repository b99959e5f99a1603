from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tilewise.data.channel import DataSet
from written_channel import WrittenChannel

DOTA = (
    "imagesource:GoogleEarth\ngsd:0.146343590398\n"
    "2 1 11.0 3 10 14 1 12 small-vehicle 0\n20 5 30 5 30 15 20 15 plane 1\n"
)
VISDRONE = "1,2,10,12,1,4,0,0\n20,5,10,10,1,1,0,1,\n0,0,5,5,0,0,0,0\n30,20,5,5,1,11,0,0\n3,3,4,4,0,4,1,2\n"


def test_dota(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    path = channel.image("images/P0001.png")
    channel.write("labelTxt/P0001.txt", DOTA)
    with caplog.at_level(logging.INFO, "tilewise"):
        found = channel.read()
    (example,) = found.examples
    assert example.path == path and found.classes == ("plane", "small-vehicle")
    assert example.targets.boxes.tolist() == [[1, 1, 11, 14], [20, 5, 30, 15]]
    assert example.targets.labels.tolist() == [1, 0] and example.targets.ignored.tolist() == [False, True]
    assert "channel train holds DOTA text files (labelTxt/P0001.txt)" in caplog.messages
    assert "channel train: outlines become the upright boxes around them (quadrangles: 2)" in caplog.messages


def test_dota__beside_its_image_without_difficult(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", "2 1 11.0 3 10 14 1 12 ship\n")
    assert channel.only().targets.boxes.tolist() == [[1, 1, 11, 14]]


def test_visdrone(channel: WrittenChannel) -> None:
    channel.image("images/9999.jpg")
    channel.write("annotations/9999.txt", VISDRONE)
    found = channel.read()
    (example,) = found.examples
    assert found.classes == ("car", "pedestrian") and not example.unread
    known = ~example.targets.ignored
    assert example.targets.boxes[known].tolist() == [[1, 2, 11, 14], [20, 5, 30, 15]]
    assert example.targets.labels[known].tolist() == [0, 1]
    # a car that its evaluation passes over, and regions of no class or of another one, for each class
    rest = sorted(
        zip(example.targets.labels[~known].tolist(), example.targets.boxes[~known].tolist(), strict=True)
    )
    regions = [[0, 0, 5, 5], [30, 20, 35, 25]]
    assert rest == sorted([(0, [3, 3, 7, 7]), *((label, box) for label in (0, 1) for box in regions)])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("2 1 11.0 3 10 14 1 ship", 'line 5: it is "2 1 11.0 3 10 14 1 ship"'),
        ("2 1 11.0 3 10 14 1 y ship 0", 'line 5: it has the coordinate "y" (text), not a number'),
    ],
)
def test_dota__bad_lines_are_named(channel: WrittenChannel, line: str, problem: str) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", DOTA + line)
    example = channel.only()
    assert len(example.targets) == 2 and example.unread[0].startswith(problem)


@pytest.mark.parametrize(
    ("line", "problem"),
    [("1,2,3,4", "line 6: it is"), ("1,2,10,12,1,12,0,0", "line 6: its category is")],
)
def test_visdrone__bad_lines_are_named(channel: WrittenChannel, line: str, problem: str) -> None:
    channel.image("a.jpg")
    channel.write("a.txt", VISDRONE + line)
    assert channel.only().unread[0].startswith(problem)


def test_images_and_files_without_each_other(channel: WrittenChannel) -> None:
    for name in ("images/a.jpg", "images/b.jpg", "images/c.jpg"):
        channel.image(name)
    channel.write("labelTxt/a.txt", DOTA)
    channel.write("labelTxt/b.txt", "")
    channel.write("labelTxt/d.txt", DOTA)
    channel.write("readme.txt", "The images are of 2018.\n")
    problems = {example.key: example.problem for example in channel.read().examples}
    assert problems == {
        "labelTxt/a.txt": "",
        "labelTxt/b.txt": "",
        "labelTxt/d.txt": "its image d.* is not in the channel, or not only once",
        "images/c.jpg": "no text file annotates it; an image without objects needs an empty one",
    }


def _write(images: Any, _: list[str], folder: Path) -> None:
    for image, objects in images:
        corners = [(x, y, x + w, y, x + w, y + h, x, y + h) for _, (x, y, w, h) in objects]
        names = [name.replace(" ", "-") for name, _ in objects]
        lines = [f"{' '.join(map(str, each))} {name} 0\n" for each, name in zip(corners, names, strict=True)]
        (folder / image["file_name"]).with_suffix(".txt").write_text("gsd:1.0\n" + "".join(lines))


def test_dota__real_data_as_coco_has_it(compare_with_coco: Callable[..., DataSet], tmp_path: Path) -> None:
    folder = tmp_path / "dota"
    folder.mkdir()
    compare_with_coco(folder, lambda images, names: _write(images, names, folder))
