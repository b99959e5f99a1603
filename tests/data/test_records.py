from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilewise.data.records import Record, Records
from tilewise.targets import Targets

KEYS = ["a.jpg", "ordner/größe 1.jpg", "", "木/木.png", "🐜.tif", os.fsdecode(b"caf\xe9.jpg"), "x" * 300]


def record(number: int, objects: int, key: str | None = None) -> Record:
    rng = np.random.default_rng(number)
    return Record(
        key=KEYS[number % len(KEYS)] if key is None else key,
        path=Path("/data") / (KEYS[number % len(KEYS)] or "none"),
        width=100 + number,
        height=50 + number,
        targets=Targets(
            rng.uniform(0, 50, (objects, 4)).astype(np.float32),
            rng.integers(0, 9, objects),
            rng.random(objects) < 0.5,
        ),
        offset=number << 40 if number % 2 else -1,
    )


def same(one: Record, other: Record) -> bool:
    return (
        (one.key, one.path, one.offset) == (other.key, other.path, other.offset)
        and (one.width, one.height) == (other.width, other.height)
        and np.array_equal(one.targets.boxes, other.targets.boxes)
        and np.array_equal(one.targets.labels, other.targets.labels)
        and np.array_equal(one.targets.ignored, other.targets.ignored)
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12))
def test_records__round_trip(counts: list[int]) -> None:
    plain = [record(number, objects) for number, objects in enumerate(counts)]
    records = Records(iter(plain))
    assert len(records) == len(plain)
    assert all(same(one, other) for one, other in zip(records, plain, strict=True))
    assert records.object_counts.tolist() == counts
    assert records.sizes.tolist() == [[one.width, one.height] for one in plain]
    assert (len(records.targets.boxes), len(records.targets.labels), len(records.targets.ignored)) == (
        sum(counts),
    ) * 3


def test_records__types() -> None:
    one = Records([record(0, 3)])[0]
    assert [str(array.dtype) for array in (one.targets.boxes, one.targets.labels, one.targets.ignored)] == [
        "float32",
        "int64",
        "bool",
    ]
    assert one.targets.boxes.shape == (3, 4)
    assert isinstance(one.width, int) and isinstance(one.path, Path)


@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0]])
def test_records__without_objects(counts: list[int]) -> None:
    records = Records(record(number, 0) for number in range(len(counts)))
    assert records.object_counts.tolist() == counts
    assert records.targets.boxes.shape == (0, 4) and records.targets.boxes.dtype == np.float32
    assert records.sizes.shape == (len(counts), 2)
    assert list(records.select([])) == []


def test_records__pickled() -> None:
    records = Records(record(number, number % 3) for number in range(8))
    again = pickle.loads(pickle.dumps(records))
    assert all(same(one, other) for one, other in zip(again, records, strict=True))


def test_records__pickle_is_a_few_arrays() -> None:
    few, many = (len(pickle.dumps(Records(record(0, 1, "") for _ in range(count)))) for count in (1000, 2000))
    names, numbers, box = len("/data/a.jpg"), 6 * 8, 16 + 8 + 1
    assert (many - few) / 1000 < names + numbers + box + 16


def test_select__order_and_repetition() -> None:
    records = Records(record(number, number % 3) for number in range(6))
    chosen = records.select([4, 1, 1])
    assert [one.width for one in chosen] == [104, 101, 101]
    assert all(same(one, records[index]) for one, index in zip(chosen, [4, 1, 1], strict=True))


@pytest.mark.parametrize("index", [-1, 3, 100])
def test_records__index_beyond(index: int) -> None:
    records = Records(record(number, 1) for number in range(3))
    with pytest.raises(IndexError):
        records[index]
    with pytest.raises(IndexError):
        records.select([0, index])
    with pytest.raises(IndexError):
        Records([])[0]


def test_record__reads_its_file(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9 1.jpg")
    file.write_bytes(b"bytes")
    one = Record(
        "k", file, 1, 1, Targets(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    )
    assert Records([one])[0].read() == b"bytes"
