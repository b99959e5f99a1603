from __future__ import annotations

import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tilewise.data.annotations import ChannelSource
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from tilewise.data.files.folder import Folder
from tilewise.data.formats.voc import read_voc
from written_channel import WrittenChannel


def thing(name: str = "ant", box: tuple[Any, ...] = (2, 3, 11, 14), more: str = "") -> str:
    corners = "".join(
        f"<{tag}>{x}</{tag}>" for tag, x in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{escape(name)}</name><pose>Left</pose>{more}<bndbox>{corners}</bndbox></object>"


def annotation(*things: str, filename: str = "a.jpg", size: Any = (40, 30)) -> str:
    sides = f"<width>{size[0]}</width><height>{size[1]}</height><depth>3</depth>" if size else ""
    return (
        f"<annotation><folder>VOC2012</folder><filename>{escape(filename)}</filename>"
        f"<source><database>x</database></source><size>{sides}</size><segmented>0</segmented>{''.join(things)}</annotation>"
    )


def test_read__a_box_without_a_coordinate_is_dropped(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", annotation(thing("bee", (2, "", 11, 14)), thing("ant", (2, 3, 11, 14))))
    example = channel.only()
    assert (example.problem, example.targets.boxes.tolist()) == ("", [[1, 2, 11, 14]])
    assert example.unread == ('object 1: its ymin is "" (text), not a number',)


def test_read__in_utf_16(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    text = '<?xml version="1.0" encoding="utf-16"?>' + annotation(thing("fähre", (2, 3, 11, 14)))
    channel.write("a.xml", text.encode("utf-16"))
    assert channel.read().classes == ("fähre",)


def test_read__as_the_development_kit_has_it(channel: WrittenChannel) -> None:
    path = channel.image("JPEGImages/2007_000032.jpg")
    channel.image("SegmentationClass/2007_000032.png")
    (channel.root / "ImageSets" / "Main").mkdir(parents=True)
    (channel.root / "ImageSets" / "Main" / "train.txt").write_text("2007_000032\n")
    part = "<part><name>hand</name>"
    part += "<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    channel.write(
        "Annotations/2007_000032.xml",
        annotation(
            thing("person", (1, 1, 40, 30), "<truncated>1</truncated><difficult>0</difficult>" + part),
            thing("bee", (2, 3, 11, 14), "<difficult>1</difficult>"),
            filename="2007_000032.jpg",
        ),
    )
    found = channel.read()
    (example,) = found.examples
    assert (example.key, example.path, example.size) == ("Annotations/2007_000032.xml", path, (40, 30))
    assert found.classes == ("bee", "person") and example.targets.labels.tolist() == [1, 0]
    assert example.targets.boxes.tolist() == [
        [0, 0, 40, 30],
        [1, 2, 11, 14],
    ]  # from 1, the last pixel included
    assert example.targets.ignored.tolist() == [False, True]


@pytest.mark.parametrize(
    ("image", "xml", "filename"),
    [
        ("a.jpg", "a.xml", "a.jpg"),
        ("a.JPG", "a.XML", "a.jpg"),
        ("a.png", "a.xml", "wrong.jpg"),
        ("a.png", "a.xml", ""),
        ("JPEGImages/a.jpg", "Annotations/a.xml", "a.jpg"),
        ("images/a.jpg", "annotations/a.xml", "a.jpg"),
        ("images/a.jpg", "a.xml", "a.jpg"),
        ("VOC2007/JPEGImages/a.jpg", "VOC2007/Annotations/a.xml", "a.jpg"),
        ("images/a.jpg", "1.xml", "a.jpg"),
        ("a.jpg", "1.xml", r"C:\\pictures\\a.jpg"),
        ("a.jpg", "1.xml", "/home/me/a.jpg"),
        ("mit Raum/größe 木.jpg", "mit Raum/größe 木.xml", "x"),
        ("v1.2.jpg", "v1.2.xml", "x"),
    ],
)
@pytest.mark.parametrize("separate", [False, True])
def test_image__found(
    channel: WrittenChannel, tmp_path: Path, image: str, xml: str, filename: str, separate: bool
) -> None:
    path = channel.image(image)
    channel.annotations = tmp_path / "train_annotation" if separate else channel.root
    channel.write(xml, annotation(thing(), filename=filename))
    example = channel.only()
    assert (example.key, example.path, example.problem) == (xml, path, "")


def test_image__the_files_own_name_before_the_one_in_it(channel: WrittenChannel) -> None:
    paths = [channel.image(f"{name}.jpg") for name in "ab"]
    for name in "ab":
        channel.write(f"{name}.xml", annotation(thing(), filename="a.jpg"))
    assert [example.path for example in channel.read().examples] == paths


def test_image__two_of_one_name_in_two_years(channel: WrittenChannel) -> None:
    paths = [channel.image(f"VOC{year}/JPEGImages/a.jpg") for year in (2007, 2012)]
    for year in (2007, 2012):
        channel.write(f"VOC{year}/Annotations/a.xml", annotation(thing()))
    assert [example.path for example in channel.read().examples] == paths


@pytest.mark.parametrize("filename", ["b.jpg", "../secret.jpg", "/etc/a.png"])
def test_image__not_in_the_channel(channel: WrittenChannel, filename: str) -> None:
    channel.image("../secret.jpg")
    channel.write("a.xml", annotation(thing(), filename=filename))
    assert channel.only().problem == f"its image a.* or {filename} is not in the channel, or not only once"


def test_image__without_xml(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    channel.write("a.xml", annotation())
    first, second = channel.read().examples
    assert first.problem == "" and len(first.targets.boxes) == 0
    assert second.key == "b.jpg" and second.problem.startswith(
        "no XML file annotates it; an image without objects"
    )


def test_image__with_two_xml_files(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", annotation(thing()))
    channel.write("copy.xml", annotation(thing()))
    assert (
        channel.message()
        == "a.xml and copy.xml annotate the same image a.jpg: keep one, with all of its objects"
    )


def test_boxes__counted_from_0(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        channel.image(f"{name}.jpg")
    channel.write("a.xml", annotation(thing(box=(2, 3, 11, 14))))
    channel.write("b.xml", annotation(thing(box=(5, 0, 11, 14))))
    with caplog.at_level(logging.INFO, "tilewise"):
        first, second = channel.read().examples
    assert first.targets.boxes.tolist() == [[2, 3, 11, 14]] and second.targets.boxes.tolist() == [
        [5, 0, 11, 14]
    ]
    assert (
        "channel train: a box begins at 0, so pixels count from 0 and all boxes are taken as they are"
        in caplog.messages
    )


def test_boxes__of_one_pixel_and_with_fractions(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", annotation(thing(box=(7, 8, 7, 8)), thing(box=(1.5, 2.25, "1e1", " 20.75 "))))
    assert channel.only().targets.boxes.tolist() == [[6, 7, 7, 8], [0.5, 1.25, 10, 20.75]]


@pytest.mark.parametrize("size", [None, (0, 0), ("", "")])
def test_size__unknown(channel: WrittenChannel, size: Any) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", annotation(thing(), size=size))
    assert channel.only().size is None and channel.only().problem == ""


def test_size__of_another_image(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", annotation(thing(), size=(30, 40)))
    assert "a.xml: its annotation says 30 x 40 pixels, but the image has 40 x 30" in channel.message()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xef\xbb\xbf",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<!-- by hand -->\n',
        b'<?xml version="1.0"?><!DOCTYPE annotation SYSTEM "file:///etc/passwd">',
    ],
)
def test_xml__heads(channel: WrittenChannel, head: bytes) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", head + annotation(thing("größe & 木")).encode())
    assert channel.read().classes == ("größe & 木",) and channel.only().problem == ""


def test_xml__other_encoding(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>' + annotation(thing("größe"))
    channel.write("a.xml", text.encode("latin-1"))
    assert channel.read().classes == ("größe",)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("", "not valid XML: no element found"),
        ("<annotation>", "not valid XML: no element found"),
        (b"<annotation>\xff</annotation>", "not valid XML: not well-formed"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not valid XML: unknown encoding"),
        ("<annotations/>", "form: it begins with <annotations>, not <annotation>"),
        (annotation("<object/>"), "form: object 1: it has no bndbox"),
        (
            annotation("<object><robndbox/></object>"),
            "form: object 1: it has no bndbox, but a robndbox: only upright boxes count",
        ),
        (
            annotation("<object><bndbox><xmin>1</xmin></bndbox></object>"),
            "form: object 1: its ymin is missing",
        ),
        (annotation(thing(), thing(" ")), "form: object 2: its name is missing"),
        (annotation(thing(box=(1, 2, 3, "x"))), 'form: object 1: its ymax is "x" (text), not a number'),
        (
            annotation(thing(box=(1, 2, 3, "nan"))),
            "form: object 1: its bndbox has the corners 1.0, 2.0, 3.0, nan",
        ),
        (
            annotation(thing(more="<difficult>yes</difficult>")),
            'form: object 1: its difficult is "yes" (text), not a number',
        ),
        (annotation(size=("wide", 3)), 'form: the width of its size is "wide" (text), not a number'),
        (annotation(size=("1e999", 3)), "form: the width or height of its size is not finite"),
    ],
)
def test_xml__broken_is_counted_once(channel: WrittenChannel, broken: str | bytes, problem: str) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    channel.write("b.xml", annotation(filename="b.jpg"))
    channel.write("a.xml", broken)
    bad, good = channel.read().examples
    assert good.problem == "" and bad.key == "a.xml" and problem in bad.problem
    assert bad.problem.startswith("not ")


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha" * 100}">' for i in range(10))


@pytest.mark.parametrize(
    ("entities", "use"),
    [
        (LAUGHS, "&l9;"),
        (f'<!ENTITY a "{"a" * 50_000}">', "&a;" * 50_000),
        ('<!ENTITY a SYSTEM "file:///etc/passwd">', "&a;"),
        ('<!ENTITY % a SYSTEM "http://127.0.0.1:9/x"> %a;', ""),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml__entities_are_refused(channel: WrittenChannel, entities: str, use: str, encoding: str) -> None:
    channel.image("a.jpg")
    channel.image("b.jpg")
    text = f"<!DOCTYPE annotation [{entities}]><annotation><filename>{use}</filename></annotation>"
    channel.write("a.xml", text.encode(encoding))
    channel.write("b.xml", annotation())
    tracemalloc.start()
    try:
        bad, _ = channel.read().examples
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20  # nothing has been expanded
    finally:
        tracemalloc.stop()
    assert "which is not supported" in bad.problem and len(bad.problem) < 100


def test_xml__deep(channel: WrittenChannel) -> None:
    channel.image("a.jpg")
    deep = "<part>" * 200_000 + "</part>" * 200_000
    channel.write("a.xml", annotation(thing(more=deep)))
    assert channel.only().targets.boxes.tolist() == [[1, 2, 11, 14]]


def test_channel__other_xml_files_are_none(channel: WrittenChannel) -> None:
    channel.image("a.tif")
    channel.write("a.tif.aux.xml", "<PAMDataset></PAMDataset>")
    channel.write("annotations.xml", "<notes><version>1.1</version></notes>")
    assert "no annotations of a known form" in channel.message()


@pytest.mark.parametrize(
    ("other", "content", "format"),
    [
        ("a.txt", "0 0.5 0.5 1 1", "YOLO text files (a.txt)"),
        ("a.json", '{"annotations": []}', "images with one JSON file each (a.json)"),
        ("coco.json", '{"images": []}', "COCO (coco.json)"),
    ],
)
def test_channel__another_format_beside(
    channel: WrittenChannel, other: str, content: str, format: str
) -> None:
    channel.image("a.jpg")
    channel.write("a.xml", annotation(thing()))
    (channel.root / other).write_text(content)
    text = channel.message()
    assert format in text and "Pascal VOC XML (a.xml)" in text and text.endswith(": keep one format")


def test_channel__classes_matched_by_name(channel: WrittenChannel, tmp_path: Path) -> None:
    other = WrittenChannel(tmp_path / "2")
    for one, names in ((channel, "ba"), (other, "b")):
        one.image("x.jpg")
        one.write("x.xml", annotation(*map(thing, names)))
    other.image("x.jpg").write_bytes(b"")
    Image.new("RGB", (40, 30), 7).save(other.root / "x.jpg")
    folders = {"train": ChannelFolder(channel.root), "validation": ChannelFolder(other.root)}
    data = read_data_set(folders, None, validates=True, seed=0)
    assert data.classes == ("a", "b") and data.validation is not None
    assert data.train.sample[0].targets.labels.tolist() == [1, 0] and data.validation.sample[
        0
    ].targets.labels.tolist() == [1]


_TAGS = [
    "annotation",
    "object",
    "bndbox",
    "name",
    "difficult",
    "size",
    "width",
    "height",
    "filename",
    "xmin",
    "ymin",
]
_XML = st.recursive(
    st.sampled_from(["", "1", "40", "-3", "nan", "inf", "1e999", "ant", "&amp;", "a.png", "../a.png", "\n"]),
    lambda inner: st.tuples(st.sampled_from([*_TAGS, "xmax", "ymax"]), st.lists(inner, max_size=6)).map(
        lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0]}>"
    ),
    max_leaves=20,
)


@given(st.binary(max_size=100) | _XML.map(lambda text: f"<annotation>{text}</annotation>".encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_anything(tmp_path: Path, content: bytes) -> None:
    if not (tmp_path / "a.png").exists():
        Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_bytes(content)
    folder = Folder(tmp_path)
    found = read_voc({"a.xml": tmp_path / "a.xml"}, ChannelSource("train", folder, folder, "train"))
    assert len(found.examples) == 1


def test_real_data__as_coco_has_it(
    channel: WrittenChannel, compare_with_coco: Callable[..., DataSet]
) -> None:
    def write(images: Any, classes: list[str]) -> None:
        for image, rows in images:
            things = [
                thing(name, (x + 1, y + 1, x + width, y + height)) for name, (x, y, width, height) in rows
            ]
            size = image["width"], image["height"]
            channel.write(
                f"{Path(image['file_name']).stem}.xml",
                annotation(*things, filename=image["file_name"], size=size),
            )

    compare_with_coco(channel.root, write, exact=True)


def test_lists_of_splits__are_warned_of(channel: WrittenChannel, caplog: pytest.LogCaptureFixture) -> None:
    channel.image("JPEGImages/a.jpg")
    channel.write("Annotations/a.xml", annotation(thing()))
    channel.write("ImageSets/Main/train.txt", "a")
    channel.read()
    assert "are not read" not in caplog.text
    channel.write("ImageSets/Main/val.txt", "a")
    channel.read()
    assert "the lists ImageSets/Main/train.txt and ImageSets/Main/val.txt are not read" in caplog.text
