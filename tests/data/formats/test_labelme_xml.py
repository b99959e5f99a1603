from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from written_channel import WrittenChannel


def thing(
    name: str = "ant", points: Any = ((1, 2), (11, 2), (11, 14), (1, 14)), kind: str = "", more: str = ""
) -> str:
    corners = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in points)
    kind = f"<type>{kind}</type>" if kind else ""
    outline = f"<polygon><username>me</username>{corners}</polygon>"
    return f"<object><name>{name}</name><deleted>0</deleted>{more}{kind}{outline}</object>"


def annotation(*things: str, filename: str = "a.jpg", size: Any = (40, 30)) -> str:
    sides = f"<imagesize><nrows>{size[1]}</nrows><ncols>{size[0]}</ncols></imagesize>" if size else ""
    source = (
        "<source><sourceImage>x</sourceImage><sourceAnnotation>LabelMe Webtool</sourceAnnotation></source>"
    )
    head = f"<filename>{filename}</filename><folder>x</folder>{source}{sides}"
    return f"<annotation>{head}{''.join(things)}</annotation>"


def test_read__boxes_polygons_and_masks(channel: WrittenChannel) -> None:
    path = channel.image("Images/x/a.jpg")
    channel.image("Masks/x/a_mask_0.png")
    box = "<box><xmin>3</xmin><ymin>4</ymin><xmax>9</xmax><ymax>12</ymax></box>"
    mask = f"<segm>{box}<mask>a_mask_0.png</mask></segm>"
    deleted = thing("old").replace("<deleted>0", "<deleted>1")
    things = (
        thing("bee", kind="bounding_box"),
        thing(points=((3.5, 2), (20, 8), (9, 25.25))),
        f"<object><name>wasp</name>{mask}</object>",
        deleted,
    )
    channel.write("Annotations/x/a.xml", annotation(*things))
    found = channel.read()
    (example,) = found.examples
    assert (example.key, example.path, example.size) == ("Annotations/x/a.xml", path, (40, 30))
    assert found.classes == ("ant", "bee", "wasp") and example.targets.labels.tolist() == [1, 0, 2]
    assert example.targets.boxes.tolist() == [[1, 2, 11, 14], [3.5, 2, 20, 25.25], [3, 4, 9, 12]]


@pytest.mark.parametrize(
    ("image", "name", "filename"),
    [("a.jpg", "a.xml", "wrong.jpg"), ("images/a.jpg", "1.xml", "a.jpg"), ("x/a.jpg", "x/a.xml", "")],
)
@pytest.mark.parametrize("separate", [False, True])
def test_image__found(
    channel: WrittenChannel, tmp_path: Path, image: str, name: str, filename: str, separate: bool
) -> None:
    path = channel.image(image)
    channel.annotations = tmp_path / "train_annotation" if separate else channel.root
    channel.write(name, annotation(thing(), filename=filename))
    assert (channel.only().path, channel.only().problem) == (path, "")


def test_image__without_xml_and_with_two(channel: WrittenChannel) -> None:
    for name in "ab":
        channel.image(f"{name}.jpg")
    channel.write("a.xml", annotation(size=None))
    first, second = channel.read().examples
    assert (first.problem, len(first.targets)) == ("", 0) and second.problem.startswith(
        "no XML file annotates it"
    )
    channel.write("copy.xml", annotation())
    assert (
        channel.message()
        == "a.xml and copy.xml annotate the same image a.jpg: keep one, with all of its objects"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (annotation(thing(" ")), 'object 1: its name is " " (text), not the name of a class'),
        (annotation(thing(), "<object><name>x</name></object>"), "object 2: it has no polygon"),
        (
            annotation(thing(points=((1, 2), (3, 4)))),
            "object 1: its polygon has 2 points, which enclose no area",
        ),
        (
            annotation(thing(points=((1, 2), (3, "x"), (5, 6)))),
            'object 1: its points are [["1", "2"], ["3", "x"], ["5", "6"]] (list), not pairs',
        ),
        (annotation(size=("wide", 3)), 'its image\'s width and height are "wide" (text) and "3" (text)'),
        (annotation()[:-3], "not valid XML: unclosed token"),
        (
            f'<!DOCTYPE annotation [<!ENTITY a "aa">]>{annotation(thing("&a;"))}',
            "not valid XML: it declares the entity a, which is not supported",
        ),
    ],
)
def test_file__that_cannot_be_used(channel: WrittenChannel, content: str, problem: str) -> None:
    path = channel.image("a.jpg")
    channel.write("a.xml", content)
    example = channel.only()
    assert (example.problem or example.unread[0]).startswith(problem) and example.path == path


def test_files__other_xml_beside_them(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.jpg.aux.xml", "<PAMDataset></PAMDataset>")
    channel.write("a.xml", annotation(thing()))
    assert channel.only().key == "a.xml"


def test_image__not_in_the_channel(channel: WrittenChannel) -> None:
    channel.write("a.xml", annotation(filename="b.jpg"))
    assert channel.only().problem == "its image a.* or b.jpg is not in the channel, or not only once"
