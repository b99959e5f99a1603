from __future__ import annotations

from pathlib import Path

import numpy as np
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.channel_table import duplicates, size_histogram, table
from tilewise.data.records import Record, Records
from tilewise.targets import Targets


def record(path: Path, content: bytes, *sizes: tuple[float, float], label: int = 0) -> Record:
    path.write_bytes(content)
    boxes = np.asarray([[0, 0, width, height] for width, height in sizes], np.float32).reshape(-1, 4)
    count = len(sizes)
    labels, ignored = np.full(count, label, np.int64), np.zeros(count, np.bool_)
    return Record(path.name, path, 200, 200, Targets(boxes, labels, ignored), length=len(content))


def test_size_histogram__limits_belong_to_the_larger_class(tmp_path: Path) -> None:
    sizes = [(7.9, 8), (8, 8), (4, 16), (15, 17), (16, 16), (32, 32), (96, 96), (64, 144), (95, 96), (1, 1)]
    assert size_histogram(Records([record(tmp_path / "a", b"", *sizes)])).tolist() == [2, 3, 1, 2, 2]


def test_size_histogram__no_objects() -> None:
    assert size_histogram(Records([])).tolist() == [0] * 5


def test_duplicates__by_bytes_not_by_name(tmp_path: Path) -> None:
    contents = {"a": b"one", "b": b"two", "c": b"three", "d": b"two", "e": b"six", "f": b"a"}
    made = {name: record(tmp_path / name, content) for name, content in contents.items()}
    train, validation = (Records(made[name] for name in names) for names in ("abc", "def"))
    assert duplicates(train, validation) == [("b", "d")]
    assert duplicates(train, Records([])) == []


def test_table__golden(tmp_path: Path) -> None:
    train = Records([record(tmp_path / "a", b"one", (5, 5), (20, 20)), record(tmp_path / "b", b"two")])
    validation = Records([record(tmp_path / "c", b"one", (100, 100), label=1)])
    report = ChannelIssues("train", images=3, left_out={"x": "damaged"}, clipped=1, dropped=["y: no area"])
    text = table(
        {"train": (train, report), "validation": (validation, ChannelIssues("validation"))}, ("ant", "bee")
    )
    assert (
        text
        == """\
                                      train  validation
images                                    2           1
  without objects                         1           0
  left out, unusable                      1           0
  also in train                                       1
boxes                                     2           1
  ignored (crowd, difficult)              0           0
  clipped to their image                  1           0
  dropped                                 1           0
    exact repetitions                     0           0
  class: ant                              2           0
  class: bee                              0           1
  √area in px: very tiny, < 8             1           0
  √area in px: tiny, 8 to 16              0           0
  √area in px: small, 16 to 32            1           0
  √area in px: medium, 32 to 96           0           0
  √area in px: large, ≥ 96                0           1
train: 1 images left out: damaged
train: boxes dropped: y: no area
validation: 1 images are in train too, so its figures flatter: a = c"""
    )
