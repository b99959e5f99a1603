from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilewise.data.recordio import open_image, scan
from tilewise.data.records import Record
from tilewise.data.writers import recordio
from tilewise.data.writers.output import Output
from tilewise.data.writers.recordio import pack, write_record, write_recordio
from tilewise.errors import UserError
from tilewise.targets import Targets

MAGIC = bytes.fromhex("0a23d7ce")


def written(content: bytes) -> bytes:
    file = io.BytesIO()
    write_record(file, content)
    return file.getvalue()


@pytest.fixture(scope="module")
def expected(shared_fixtures: Path) -> Any:
    return json.loads((shared_fixtures / "recordio" / "expected.json").read_text())["sets"]


def image_of(path: Path, offset: int) -> bytes:
    with open_image(path, offset) as file:
        return file.read()


@pytest.mark.parametrize("name", ["train", "head2", "difficult", "reencoded", "edge"])
def test_write_record__same_bytes_as_mxnet(shared_fixtures: Path, expected: Any, name: str) -> None:
    path = shared_fixtures / "recordio" / f"{name}.rec"
    rec, idx = io.BytesIO(), ""
    for record, want in zip(scan(path), expected[name]["records"], strict=True):
        content = pack(record.id, record.labels, image_of(path, record.offset))
        if want["flag"] == 0:  # a label for classification, which this package never writes
            content = bytes(4) + record.labels.tobytes() + content[8:24] + content[28:]
        idx += f"{want['key']}\t{rec.tell()}\n"
        write_record(rec, content)
    assert rec.getvalue() == path.read_bytes()
    assert idx == path.with_suffix(".idx").read_text()


@pytest.mark.parametrize(("name", "with_size"), [("difficult", False), ("train", True)])
def test_write_recordio__same_files_as_im2rec(
    shared_fixtures: Path, expected: Any, tmp_path: Path, name: str, with_size: bool
) -> None:
    path = shared_fixtures / "recordio" / f"{name}.rec"
    records = [source_record(path, want, tmp_path) for want in expected[name]["records"]]
    folder = tmp_path / "out"
    folder.mkdir()
    write_recordio(records, (), Output(folder), name=name, difficult=name == "difficult", with_size=with_size)
    ours, theirs = (
        [line.split("\t") for line in one.read_text().splitlines()]
        for one in (folder / f"{name}.lst", path.with_suffix(".lst"))
    )
    assert [line[1:-1] for line in ours] == [line[1:-1] for line in theirs]  # the numbers, digit by digit
    mine = list(scan(folder / f"{name}.rec"))
    for record, want in zip(mine, scan(path), strict=True):
        np.testing.assert_array_equal(record.labels, want.labels)
        assert image_of(folder / f"{name}.rec", record.offset) == image_of(path, want.offset)
    if name != "train":  # whose ids do not count from 0
        assert (folder / f"{name}.rec").read_bytes() == path.read_bytes()
        assert (folder / f"{name}.idx").read_text() == path.with_suffix(".idx").read_text()


def source_record(path: Path, want: Any, folder: Path) -> Record:
    """The image as a file, with the boxes in pixels that im2rec's list was made of."""
    name = Path(want["file_name"]).with_suffix(Path(want["file_name"]).suffix.lower()).name
    image = folder / str(want["key"]) / name
    image.parent.mkdir()
    image.write_bytes(image_of(path, want["offset"]))
    height, width, _ = want["mxnet_decoded_shape"]
    labels = np.asarray(want["label"][int(want["label"][0]) :]).reshape(-1, int(want["label"][1]))
    # Back to the pixels that the list's fractions were made of: whole numbers.
    boxes = np.round(labels[:, 1:5] * ([width, height] * 2))
    ignored = labels[:, 5] > 0 if labels.shape[1] > 5 else np.zeros(len(labels), np.bool_)
    return Record(
        want["file_name"],
        image,
        width,
        height,
        Targets(boxes.astype(np.float32), labels[:, 0].astype(np.int64), ignored),
    )


@pytest.mark.parametrize(
    ("content", "expected_hex"),
    [
        (b"ABCD" + MAGIC + b"EFG", "0a23d7ce04000020414243440a23d7ce0300006045464700"),
        (b"A" + MAGIC + b"BCD", "0a23d7ce08000000410a23d7ce424344"),
        (MAGIC, "0a23d7ce000000200a23d7ce00000060"),
    ],
)
def test_write_record__vectors(content: bytes, expected_hex: str) -> None:
    assert written(content).hex() == expected_hex


@given(st.lists(st.sampled_from([MAGIC, b"a", b"\x0a", b"bc", b"\x0a\x23", b"1234"]), max_size=12))
def test_write_record__reads_back(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("rec") / "a.rec"
    image = b"".join(pieces)
    path.write_bytes(written(pack(7, [2, 5], image)) * 2)
    first, second = scan(path)
    assert image_of(path, first.offset) == image_of(path, second.offset) == image
    assert (second.id, second.labels.tolist()) == (7, [2, 5])


def test_write_recordio__image_too_large_for_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordio, "MAX_LENGTH", 100)
    (tmp_path / "a.jpg").write_bytes(bytes(90))
    empty = np.zeros(0, np.int64)
    record = Record(
        "a.jpg",
        tmp_path / "a.jpg",
        9,
        9,
        Targets(np.zeros((0, 4), np.float32), empty, empty.astype(np.bool_)),
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(
        UserError, match=r"a.jpg: its record would be too large: 122 bytes are more than the 100"
    ):
        write_recordio([record], ("ant",), Output(tmp_path / "out"))
