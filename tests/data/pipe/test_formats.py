from __future__ import annotations

import io
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pipe_platform import MAGIC, image_record, manifest, png, record_bytes
from tilewise.data.annotations import RawExample
from tilewise.data.decoding.decode import ImageHeader
from tilewise.data.label_numbers import ImageLabels
from tilewise.data.pipe.formats import StreamItem, read_arrivals
from tilewise.errors import UserError

METADATA = {
    "objects": [{"confidence": 0.09}],
    "class-map": {"0": "dog"},
    "type": "groundtruth/object-detection",
}


def read(*contents: bytes) -> list[StreamItem]:
    return list(read_arrivals(io.BytesIO(b"".join(contents)), "train_0"))


def only(*contents: bytes) -> RawExample:
    (arrival,) = read(*contents)
    return arrival.example


def encoded(format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (256, 256), "red").save(file, format)  # a BMP of 196662 bytes: 36 00 03 00 after "BM"
    return file.getvalue()


def test_manifest__image_and_label_alternate() -> None:
    items = read(manifest(png(), [(0, 1, 2, 10, 20), (3, 0, 0, 5, 5)]), manifest(png(9, 9), []))
    first, second = (arrival.example for arrival in items)
    assert (first.key, second.key) == ("train_0#0", "train_0#2")
    assert first.targets.boxes.tolist() == [
        [1, 2, 11, 22],
        [0, 0, 5, 5],
    ] and first.targets.labels.tolist() == [0, 3]
    assert first.targets.ignored.tolist() == [False, False] and not first.fractions
    assert second.targets.boxes.shape == (0, 4) and not second.problem
    assert [arrival.example.encoded for arrival in items] == [png(), png(9, 9)]
    headers = [arrival.info[0] for arrival in items]
    assert [(h.width, h.height) for h in headers if isinstance(h, ImageHeader)] == [(40, 30), (9, 9)]
    assert {arrival.format for arrival in items} == {"an augmented manifest"}


def labelled(several: bool, *contents: bytes) -> list[StreamItem]:
    stream = io.BytesIO(b"".join(contents))
    return list(read_arrivals(stream, "train_0", labels=ImageLabels(several)))


def test_labels__of_image_records_and_of_a_manifest() -> None:
    metadata = json.dumps({"class-name": "cat", "type": "groundtruth/image-classification"}).encode()
    streams = [
        (False, [image_record(2.0, png())], [[2]], {}),
        (True, [image_record([1.0, 0.0, 1.0], png())], [[0, 2]], {}),
        (False, [record_bytes(png()), record_bytes(b'"1"'), record_bytes(metadata)], [[1]], {1: "cat"}),
        (True, [record_bytes(png()), record_bytes(b"[0,1]"), record_bytes(png()), record_bytes(b"[0, 0]")],
         [[1], []], {}),
    ]  # fmt: skip
    for several, contents, labels, names in streams:
        items = labelled(several, *contents)
        assert [item.example.targets.labels.tolist() for item in items] == labels
        assert all(item.example.fractions and not item.example.problem for item in items)
        assert items[0].names == names


def test_labels__of_the_other_kind_are_a_problem() -> None:
    (item,) = labelled(False, record_bytes(png()), record_bytes(b"[1, 0]"))
    assert item.example.problem.startswith("its label: it is [1, 0] (list), and an image has one class here")
    (item,) = labelled(True, image_record(2.0, png()))
    assert item.example.problem.startswith("its label is one number, and an image has several classes here")
    (item,) = labelled(True, manifest(png(), [(0, 1, 2, 10, 20)]))
    assert item.example.problem.startswith("none of the 1 JSON texts after it is a class or a list of classe")


def test_manifest__class_ids_as_text() -> None:
    assert only(manifest(png(), [("2", 1, 2, 10, 20), ("0", 0, 0, 5, 5)])).targets.labels.tolist() == [2, 0]


def test_manifest__further_attributes_and_their_class_map() -> None:
    (arrival,) = read(manifest(png(), [(0, 1, 2, 10, 20)], metadata=METADATA, number=17, text="a", none=None))
    assert arrival.example.targets.labels.tolist() == [0] and not arrival.example.problem
    assert arrival.names == {0: "dog"}


def test_manifest__size_of_the_label() -> None:
    label = {"image_size": [{"width": 40, "height": 31, "depth": 3}], "annotations": []}
    assert only(record_bytes(png()), record_bytes(json.dumps(label).encode())).size == (40, 31)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ([record_bytes(png())], "none of the 0 JSON texts after it has annotations: list source-ref and one"),
        ([record_bytes(png()), record_bytes(b"{}")], "none of the 1 JSON texts after it has annotations"),
        ([record_bytes(png()), record_bytes(b"null")], "none of the 1 JSON texts"),
        ([manifest(png(), [], other={"annotations": []})], "2 of the 2 JSON texts after it has annotations"),
        (
            [manifest(png(), [("x", 0, 0, 1, 1)])],
            'its label: annotations[0]: class_id "x" (text) is not 0, 1, 2, …',
        ),
        (
            [record_bytes(png()), record_bytes(b'{"annotations": [{}]}')],
            "its label: annotations[0]: the key 'class_id' is",
        ),
    ],
)
def test_manifest__label_that_cannot_be_used(contents: list[bytes], words: str) -> None:
    good = manifest(png(), [(1, 0, 0, 5, 5)])
    first, damaged, last = read(good, *contents, good)
    assert not first.example.problem and not last.example.problem
    assert damaged.example.problem.startswith(words) and damaged.info == damaged.example.problem


@pytest.mark.parametrize("damaged", [b"", b"no image", bytes(100), png()[:20], b"\xff\xd8\xff", b"{broken"])
def test_manifest__damaged_image_is_one_of_its_images(damaged: bytes) -> None:
    good = manifest(png(), [(1, 0, 0, 5, 5)])
    for contents in ((good, manifest(damaged, [])), (manifest(damaged, []), good)):
        items = read(*contents)
        assert sorted(isinstance(arrival.info, str) for arrival in items) == [False, True]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000"])
def test_kind__image_first_is_a_manifest(format: str) -> None:
    try:
        image = encoded(format)
    except OSError:
        pytest.skip("this Pillow writes no such files")
    assert only(manifest(image, [(0, 0, 0, 5, 5)])).encoded == image
    record = image_record([2, 5, 0, 0, 0, 1, 1], image)
    (arrival,) = read(record)
    assert arrival.example.encoded == image and arrival.format == "RecordIO image records"


@pytest.mark.parametrize("label", [[2, 5], [2.0, 5.0] + [0, 0, 0, 1, 1] * 400, 3.0])
@pytest.mark.parametrize("image", [png(), b"", b"no image"])
def test_kind__image_records(label: Any, image: bytes) -> None:
    items = read(image_record(label, image, 5), image_record([2, 5], png(), 0x7B))
    assert [arrival.example.key for arrival in items] == ["train_0#0 (id 5)", "train_0#1 (id 123)"]
    assert items[0].example.encoded == image


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "train_0 ended without a record: is there any data"),
        (
            png(),
            "train_0 holds bare images, without their labels and one after the other: set RecordWr",
        ),
        (encoded("JPEG"), "set RecordWrapperType to RecordIO for the channel"),
        (b'{"source-ref": "s3://bucket/a.jpg"}', 'train_0 holds text ({"source-ref": "s3://bucket/a.jp)'),
        (
            record_bytes(b'{"annotations": []}') + record_bytes(png()),
            "list source-ref first in Attr",
        ),
        (record_bytes(image_record([2, 5], png())), "itself a RecordIO file: leave RecordWrapperType out"),
        (
            record_bytes(b"neither of them, but long enough"),
            "32 bytes, 6e65697468657220…) is neither an",
        ),
        (record_bytes(b""), "its first record (0 bytes, …) is neither"),
    ],
)
def test_kind__none_of_both(content: bytes, words: str) -> None:
    with pytest.raises(UserError) as error:
        read(content)
    assert str(error.value).startswith("train_0") and words in str(error.value)


LABELS = st.sampled_from([1.0, [2.0, 5.0]])
CONTENT = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([png(1, 1), b"{}", b'{"annotations": []}', b"[" * 2000, MAGIC, b'{"class-map": 3}']),
    st.builds(
        lambda label, image: image_record(label, image)[8:], st.sampled_from([1.0, [2.0, 5.0]]), st.binary()
    ),
)


@settings(max_examples=150, deadline=None)
@given(contents=st.lists(CONTENT, max_size=5), cut=st.integers(0, 400))
def test_any_records__nothing_but_user_errors(contents: list[bytes], cut: int) -> None:
    whole = b"".join(map(record_bytes, contents))
    for content in (whole, whole[:cut], b"".join(contents)):
        try:
            for arrival in read(content):
                assert arrival.example.key.startswith("train_0#")
        except UserError as error:
            assert str(error).startswith("train_0")


def test_random_bytes__nothing_but_user_errors() -> None:
    for size in (0, 1, 7, 8, 100, 10_000):
        for _ in range(5):
            with pytest.raises(UserError):
                read(os.urandom(size))
