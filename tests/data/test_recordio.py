from __future__ import annotations

import hashlib
import io
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipe_platform import MAGIC, image_record, png, record_bytes
from tilewise.data.channel import ChannelFolder, read_data_set
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import check_example, make_records, read_image_info
from tilewise.data.decoding.decode import DecodeError, read_header
from tilewise.data.files.folder import Folder
from tilewise.data.formats.recordio import read_record_files
from tilewise.data.recordio import StreamRecord, open_image, read_stream, scan, split_image_record
from tilewise.errors import UserError

SETS = ("train", "head2", "difficult", "reencoded", "edge")


def read_image(path: Path, offset: int) -> bytes:
    with open_image(path, offset) as file:
        return file.read()


def write(path: Path, *records: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(records))
    return path


def problem(tmp_path: Path, label: list[float] | float) -> str:
    write(tmp_path / "a.rec", image_record(label, png()))
    (example,) = read_record_files(Folder(tmp_path).with_suffix(".rec")).examples
    return example.problem


@pytest.fixture(scope="module")
def expected(shared_fixtures: Path) -> Any:
    return json.loads((shared_fixtures / "recordio" / "expected.json").read_text())["sets"]


@pytest.mark.parametrize("name", SETS)
def test_mxnet__same_labels_and_image_bytes(shared_fixtures: Path, expected: Any, name: str) -> None:
    path = shared_fixtures / "recordio" / f"{name}.rec"
    records = list(scan(path))
    assert len(records) == len(expected[name]["records"])
    for number, (record, want) in enumerate(zip(records, expected[name]["records"], strict=True)):
        assert (record.number, record.offset, record.id) == (number, want["offset"], want["id"])
        assert hashlib.sha256(record.labels.tobytes()).hexdigest() == want["label_sha256"]
        image = read_image(path, record.offset)
        assert (len(image), hashlib.sha256(image).hexdigest()) == (want["image_bytes"], want["image_sha256"])


@pytest.mark.parametrize("name", SETS)
def test_mxnet__same_boxes(shared_fixtures: Path, expected: Any, name: str) -> None:
    path = shared_fixtures / "recordio" / f"{name}.rec"
    examples = read_record_files({path.name: path}).examples
    for example, want in zip(examples, expected[name]["records"], strict=True):
        if want.get("boxes") is None or want.get("case") in ("class_negative", "pixel_coordinates"):
            assert example.problem
            continue
        assert not example.problem
        rows = np.asarray(want["boxes"] or np.zeros((0, 5)), np.float32)
        assert example.targets.labels.tolist() == rows[:, :1].ravel().tolist()
        np.testing.assert_array_equal(example.targets.boxes, rows[:, 1:5])


@pytest.mark.parametrize("name", SETS)
def test_mxnet__same_records(shared_fixtures: Path, expected: Any, name: str) -> None:
    path = shared_fixtures / "recordio" / f"{name}.rec"
    examples = read_record_files({path.name: path}).examples
    compared = 0
    for example, want in zip(examples, expected[name]["records"], strict=True):
        if example.problem or not isinstance(want.get("gluoncv_boxes_px"), list):
            continue
        issues = ChannelIssues("train")
        record = check_example(example, read_image_info(example), issues)
        if record is None:  # MXNet has it as an image without objects
            assert "none of its boxes can be used" in issues.left_out[example.key]
            continue
        assert [record.height, record.width, 3] == want["mxnet_decoded_shape"]
        rows = np.asarray(want["gluoncv_boxes_px"], np.float32)
        rows[:, :4] = np.clip(rows[:, :4], 0, [record.width, record.height] * 2)
        rows = rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])]
        np.testing.assert_array_equal(record.targets.boxes, rows[:, :4])
        assert record.targets.labels.tolist() == rows[:, 4].tolist()
        assert record.targets.ignored.tolist() == (rows[:, 5:6] > 0).any(axis=1).tolist()
        assert hashlib.sha256(record.read()).hexdigest() == want["image_sha256"]
        compared += 1
    assert compared >= (17 if name == "edge" else len(examples))


def test_mxnet__same_sizes_of_odd_images(shared_fixtures: Path, expected: Any) -> None:
    path = shared_fixtures / "recordio" / "edge.rec"
    for want in expected["edge"]["records"]:
        if want["pillow"] is None:
            with pytest.raises(DecodeError), open_image(path, want["offset"]) as file:
                read_header(file)
        elif isinstance(want["mxnet_decoded_shape"], list):
            with open_image(path, want["offset"]) as file:
                header = read_header(file)
            assert [header.height, header.width, 3] == want["mxnet_decoded_shape"], want["case"]


def test_edge__each_record_that_cannot_be_used_is_named(shared_fixtures: Path) -> None:
    path = shared_fixtures / "recordio" / "edge.rec"
    with pytest.raises(
        UserError,
        match=r"9 of 30 images .*starting with: edge.rec#11 \(id 11\): none of its boxes",
    ):
        make_records(read_record_files({path.name: path}).examples, ChannelIssues("train"))


@pytest.mark.parametrize(
    ("content", "written"),
    [
        (b"ABCD" + MAGIC + b"EFG", "0a23d7ce04000020414243440a23d7ce0300006045464700"),
        (b"A" + MAGIC + b"BCD", "0a23d7ce08000000410a23d7ce424344"),
        (MAGIC, "0a23d7ce000000200a23d7ce00000060"),
    ],
)
def test_vectors__writer_of_these_tests(content: bytes, written: str) -> None:
    assert record_bytes(content).hex() == written


def test_vectors__image_record(tmp_path: Path) -> None:
    written = (
        "0a23d7ce 37000000 07000000 00000000 07000000 00000000 00000000 00000000 00000040 0000a040 0000803f "
        "0000803e 0000003f 0000403f 0000803f ffd8ff00"
    )
    path = write(tmp_path / "a.rec", bytes.fromhex(written))
    (record,) = scan(path)
    assert (record.number, record.offset, record.id) == (0, 0, 7)
    assert record.labels.tolist() == [2, 5, 1, 0.25, 0.5, 0.75, 1]
    assert read_image(path, 0) == b"\xff\xd8\xff"
    assert image_record([2, 5, 1, 0.25, 0.5, 0.75, 1], b"\xff\xd8\xff", 7) == path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "a.rec"


WORDS = st.lists(st.sampled_from([MAGIC, b"abcd", b"x", b""]), max_size=6).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(images=st.lists(WORDS, max_size=4))
def test_scan__magic_anywhere(scratch: Path, images: list[bytes]) -> None:
    label = [2, 5, *struct.unpack("<5f", MAGIC * 5)]
    write(scratch, *(image_record(label, image, 0xCED7230A) for image in images))
    records = list(scan(scratch))
    assert [read_image(scratch, record.offset) for record in records] == images
    assert all(record.id == 0xCED7230A and record.labels.tolist() == label for record in records)


class Pieces(io.RawIOBase):
    """A stream that cannot seek and brings its content in pieces of the given lengths."""

    def __init__(self, content: bytes, lengths: list[int]):
        self.rest, self.lengths = content, lengths

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        length = self.lengths.pop() if self.lengths else len(self.rest)
        piece = self.rest[: min(length, len(buffer))]
        self.rest = self.rest[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


@settings(max_examples=100, deadline=None)
@given(
    contents=st.lists(WORDS, max_size=4),
    lengths=st.lists(st.integers(1, 9), max_size=30),
    buffered=st.integers(1, 40),
)
def test_stream__any_content_in_any_pieces(contents: list[bytes], lengths: list[int], buffered: int) -> None:
    written = [record_bytes(content) for content in contents]
    stream = io.BufferedReader(Pieces(b"".join(written), lengths), buffered)
    offsets = [sum(map(len, written[:number])) for number in range(len(written))]
    assert list(read_stream(stream, "train_0")) == [
        StreamRecord(number, offset, content)
        for number, (offset, content) in enumerate(zip(offsets, contents, strict=True))
    ]


@settings(max_examples=60, deadline=None)
@given(images=st.lists(WORDS, max_size=4))
def test_stream__image_records_as_in_a_file(scratch: Path, images: list[bytes]) -> None:
    label = [2, 5, *struct.unpack("<5f", MAGIC * 5)]
    write(scratch, *(image_record(label, image, 7) for image in images))
    with scratch.open("rb") as file:
        streamed = [split_image_record(record, "train_0") for record in read_stream(file, "train_0")]
    for (record, image), scanned in zip(streamed, scan(scratch), strict=True):
        assert (record.number, record.offset, record.id) == (scanned.number, scanned.offset, scanned.id)
        assert record.labels.tobytes() == scanned.labels.tobytes()
        assert image == read_image(scratch, scanned.offset)


def test_stream__cut_anywhere() -> None:
    records = small_file()
    content = b"".join(records)
    borders = [sum(map(len, records[:count])) for count in range(len(records) + 1)]
    for length in range(len(content)):
        stream = io.BytesIO(content[:length])
        if length in borders:
            assert len(list(read_stream(stream, "train_0"))) == borders.index(length)
            continue
        number = sum(border <= length for border in borders) - 1
        with pytest.raises(UserError) as error:
            list(read_stream(stream, "train_0"))
        assert str(error.value).startswith(f"train_0 is damaged in record {number} at byte ")


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=80))
def test_stream__any_bytes(content: bytes) -> None:
    for start in (b"", MAGIC):
        try:
            for record in read_stream(io.BytesIO(start + content), "train_0"):
                split_image_record(record, "train_0")
        except UserError as error:
            assert str(error).startswith("train_0 is damaged in record ")


def test_scan__passes_over_images(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    length = 24 + (64 << 20)
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<IIfQQ", length, 0, 0, 0, 0))
        file.truncate(8 + length)  # a hole, where there is such a thing
    tracemalloc.start()
    records = list(scan(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(records) == 1 and peak < (1 << 20) + (1 << 17)  # the file's buffer, and little else


def test_open_image__seek_and_tell(tmp_path: Path) -> None:
    content = b"0123" + MAGIC + b"4567" + MAGIC + b"89"
    path = write(tmp_path / "a.rec", image_record([2, 5], b"first"), image_record([2, 5], content))
    offset = list(scan(path))[1].offset
    with open_image(path, offset) as file:
        for start in range(len(content) + 2):
            assert file.seek(start) == start
            assert file.read(7) == content[start : start + 7]
        assert file.seek(-3, io.SEEK_END) == file.tell() == len(content) - 3


def small_file() -> list[bytes]:
    return [
        image_record([2, 5, 1, 0.25, 0.5, 0.75, 1], MAGIC + b"abc" + b"d" + MAGIC),
        image_record(3.0, b"\xff\xd8\xff"),
        image_record([2, 6, 0, 0, 0, 1, 1, 1], b"image"),
    ]


def examine(path: Path) -> None:
    """Either it can be read to the end, or a sentence names the file."""
    try:
        for example in read_record_files({path.name: path}).examples:
            assert example.path is not None
            read_image(example.path, example.offset)
    except UserError as error:
        assert str(error).startswith("a.rec is damaged in record ")


def test_damage__cut_anywhere(tmp_path: Path) -> None:
    records = small_file()
    content = b"".join(records)
    borders = {sum(map(len, records[:count])) for count in range(len(records) + 1)}
    for length in range(len(content)):
        path = write(tmp_path / "a.rec", content[:length])
        if length in borders:
            examine(path)
            continue
        with pytest.raises(UserError, match=r"^a.rec is damaged in record [012] at byte \d+: "):
            list(scan(path))


def test_damage__at_every_byte(tmp_path: Path) -> None:
    content = b"".join(small_file())
    for at in range(len(content)):
        for value in (0, 0xFF, content[at] ^ 0x20, content[at] ^ 0x80):
            examine(write(tmp_path / "a.rec", content[:at], bytes([value]), content[at + 1 :]))


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=80))
def test_damage__any_bytes(scratch: Path, content: bytes) -> None:
    examine(write(scratch, content))


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (b"RIFF" + bytes(28), "record 1 at byte 36: here is 52494646, but a record begins with 0a23d7ce"),
        (MAGIC + struct.pack("<I", 3 << 29), "record 1 at byte 36: here is a part 3, where 0 or 1 belongs"),
        (record_bytes(b"short"), "record 1 at byte 36: 5 bytes are too few for the header of an image"),
        (
            record_bytes(struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0)),
            "record 1 at byte 36: 24 bytes are too few for the record's 4294967295 labels",
        ),
        (
            image_record(1, b"12345678")[:-4],
            "record 1 at byte 36: the record goes on to byte 76, but the file",
        ),
        (MAGIC, "record 1 at byte 36: the data ends in the middle of a record"),
    ],
)
def test_damage__file_record_and_byte_are_named(tmp_path: Path, damaged: bytes, words: str) -> None:
    path = write(tmp_path / "a.rec", image_record(0, b"good"), damaged)
    with pytest.raises(UserError) as error:
        list(scan(path))
    assert str(error.value).startswith(f"a.rec is damaged in {words}")


def test_open_image__damaged_since(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rec", b"something else")
    with pytest.raises(DecodeError, match=r"^a.rec is damaged at byte 0: "):
        open_image(path, 0)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (
            3.0,
            "its label is a single number, without boxes: write the file with im2rec's option --pack-label",
        ),
        ([3], "its label is a single number"),
        ([1, 5], "its label of 2 numbers begins with 1 and 5"),
        ([2, 4, 0, 0, 1, 1], "its label of 6 numbers begins with 2 and 4"),
        ([2.5, 5], "its label of 2 numbers begins with 2.5 and 5"),
        ([9, 5, 0], "its label of 3 numbers begins with 9 and 5"),
        ([float("nan"), 5], "its label of 2 numbers begins with nan and 5"),
        ([2, float("inf")], "its label of 2 numbers begins with 2 and inf"),
        ([2, 5, 0, 0, 0, 1, 1, 1], "its label has 6 numbers after its header, not 5 for each object"),
        ([2, 5, -1, 0, 0, 1, 1], "an object has the class id -1, which is not 0, 1, 2, …"),
        ([2, 5, 1.5, 0, 0, 1, 1], "an object has the class id 1.5"),
        ([2, 5, float("nan"), 0, 0, 1, 1], "an object has the class id nan"),
        ([2, 5, 1e30, 0, 0, 1, 1], "an object has the class id 1e+30"),
        (
            [2, 5, 0, 10, 10, 90, 90],
            "a box has the coordinate 10, not a fraction of its image's width or height",
        ),
    ],
)
def test_label__problem(tmp_path: Path, label: list[float] | float, words: str) -> None:
    assert problem(tmp_path, label).startswith(words)


def test_label__header_floats_and_difficult(tmp_path: Path) -> None:
    label = [4, 7, 640, 480, 1, 0, 0, 0.5, 0.5, 1, 9, 2, 0, 0, 1, 1, 0, 9]
    write(tmp_path / "a.rec", image_record(label, png()), image_record([2, 5], png()))
    found = read_record_files(Folder(tmp_path).with_suffix(".rec"))
    with_objects, without = make_records(found.examples, ChannelIssues("train"))
    assert with_objects.targets.boxes.tolist() == [[0, 0, 20, 15], [0, 0, 40, 30]]
    assert with_objects.targets.labels.tolist() == [1, 2]
    assert with_objects.targets.ignored.tolist() == [True, False]
    assert len(without.targets.labels) == 0


def test_label__rows_that_make_labels_equally_long_are_no_objects(tmp_path: Path) -> None:
    label = [2, 6, 1, 0, 0, 0.5, 0.5, 0, *[-1] * 6, *[-1] * 6]
    write(tmp_path / "a.rec", image_record(label, png()))
    (example,) = read_record_files(Folder(tmp_path).with_suffix(".rec")).examples
    assert (example.problem, example.targets.labels.tolist()) == ("", [1])


@pytest.mark.parametrize(("ids", "warned"), [((1, 2), True), ((0, 2), False)])
def test_channel__ids_from_1_are_doubted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ids: tuple[int, ...], warned: bool
) -> None:
    folders = {"train": ChannelFolder(channel(tmp_path / "train", [objects(*ids)]))}
    assert read_data_set(folders, None, validates=False, seed=0).classes == ("0", "1", "2")
    assert ("nothing has the class id 0, though ids count from 0" in caplog.text) == warned


def channel(folder: Path, labels: list[list[float]], name: str = "data.rec") -> Path:
    write(folder / name, *(image_record(label, png(), 100 + at) for at, label in enumerate(labels)))
    return folder


def objects(*ids: int) -> list[float]:
    return [2.0, 5.0, *(number for one in ids for number in (one, 0.1, 0.1, 0.5, 0.5))]


def message(folders: dict[str, Path], num_classes: int | None = None) -> str:
    named = {name: ChannelFolder(path) for name, path in folders.items()}
    with pytest.raises(UserError) as error:
        read_data_set(named, num_classes, validates=False, seed=0)
    return str(error.value)


def test_channel__several_files_and_folders(tmp_path: Path) -> None:
    channel(tmp_path / "train", [objects(0), objects(2, 1)], "part_b.rec")
    channel(tmp_path / "train", [objects()], "more/part_a.rec")
    channel(tmp_path / "train", [objects(9)], ".ipynb_checkpoints/part_a.rec")
    (tmp_path / "train" / "part_b.idx").write_text("100\t0\n")
    data = read_data_set({"train": ChannelFolder(tmp_path / "train")}, None, validates=False, seed=0)
    assert data.classes == ("0", "1", "2")
    assert [(record.key, record.targets.labels.tolist()) for record in data.train.sample] == [
        ("more/part_a.rec#0 (id 100)", []),
        ("part_b.rec#0 (id 100)", [0]),
        ("part_b.rec#1 (id 101)", [2, 1]),
    ]
    assert [record.read() for record in data.train.sample] == [png()] * 3


def test_channel__with_validation(tmp_path: Path) -> None:
    folders = {name: channel(tmp_path / name, [objects(1)]) for name in ("train", "validation")}
    data = read_data_set(
        {name: ChannelFolder(path) for name, path in folders.items()},
        3,
        validates=True,
        seed=0,
    )
    assert data.classes == ("0", "1", "2") and data.validation is not None


def test_channel__num_classes_too_small(tmp_path: Path) -> None:
    folder = channel(tmp_path / "train", [objects(0), objects(1, 2)])
    assert message({"train": folder}, 2).startswith(
        "channel train: data.rec#1 (id 101) has class_id 2, but num_classes is 2, so ids go from 0 to 1"
    )


def test_channel__unpacked_labels(tmp_path: Path) -> None:
    write(tmp_path / "train" / "data.rec", *(image_record(1.0, png()) for _ in range(3)))
    text = message({"train": tmp_path / "train"}, 2)
    assert "3 of 3 images cannot be used" in text and "--pack-label" in text


def test_channel__image_damaged(tmp_path: Path) -> None:
    write(tmp_path / "train" / "data.rec", image_record(objects(0), b"no image"))
    text = message({"train": tmp_path / "train"}, 1)
    assert "data.rec#0 (id 0): these bytes are not an image in a known format" in text


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("train/a.jpg", "image files (a.jpg)"),
        ("train/coco.json", "COCO (coco.json)"),
        ("train_annotation/a.json", "images with one JSON file each (a.json)"),
    ],
)
def test_channel__other_format_beside(tmp_path: Path, other: str, words: str) -> None:
    folders = {"train": channel(tmp_path / "train", [objects(0)])}
    write(tmp_path / other, b'{"images": [], "categories": []}')
    if "annotation" in other:
        folders["train_annotation"] = tmp_path / "train_annotation"
        write(tmp_path / other, b'{"annotations": []}')
    assert message(folders) == f"channel train holds RecordIO (data.rec) and {words}: keep one format"
