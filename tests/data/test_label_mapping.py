from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tilewise.data.channel import DataSet, Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.label_mapping import label_mapping, with_labels_of
from tilewise.data.records import Record, Records
from tilewise.targets import Targets


def data_of(*classes: str) -> DataSet:
    """One image with an object of each class, one after the other."""
    count = len(classes)
    boxes = np.tile(np.array([[0, 0, 9, 9]], np.float32), (count, 1))
    record = Record("a", Path("a"), 10, 10, Targets(boxes, np.arange(count), np.zeros(count, np.bool_)))
    split = Split(Records([record]), ChannelIssues("train", 1))
    return DataSet(classes, split, split)


@pytest.mark.parametrize(
    ("own", "model", "classes", "labels", "warned"),
    [
        (("ant", "bee"), ("ant", "bee"), ("ant", "bee"), [0, 1], False),
        (("bee", "cat", "ant"), ("ant", "bee", "cat"), ("ant", "bee", "cat"), [1, 2, 0], False),
        (("0", "1"), ("ant", "bee"), ("ant", "bee"), [0, 1], True),
        (("ant", "bee"), ("0", "1"), ("ant", "bee"), [0, 1], True),
        (("bee", "cat"), ("ant", "bee"), ("cat", "bee"), [1, 0], True),
        (("car", "ship"), ("ant", "bee"), ("car", "ship"), [0, 1], True),
        (("ant",), ("ant", "bee"), ("ant",), [0], False),
    ],
    ids=["the same", "another order", "ids, names", "names, ids", "one name", "no name", "another number"],
)
def test_label_mapping__by_name_then_by_position(
    own: tuple[str, ...],
    model: tuple[str, ...],
    classes: tuple[str, ...],
    labels: list[int],
    warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = data_of(*own)
    data = with_labels_of(before, model)
    assert data.classes == classes
    assert data.validation is not None
    for split in (data.train, data.validation):
        assert split.sample.targets.labels.tolist() == labels
        assert split.sample[0].targets.labels.tolist() == labels
    assert before.train.sample.targets.labels.tolist() == list(range(len(own)))
    assert any(record.levelname == "WARNING" for record in caplog.records) == warned
    assert not warned or "matched by position" in caplog.text


def test_label_mapping__is_a_permutation() -> None:
    assert label_mapping(("d", "b", "x", "a"), ("a", "b", "c", "d")).tolist() == [3, 1, 2, 0]
