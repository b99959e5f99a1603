from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from written_channel import WrittenChannel

Image = dict[str, Any]
Row = tuple[str, list[float]]
"""A class's name and ``x, y, width, height``."""


Images = list[tuple[Image, list[Row]]]
"""COCO's entry of each image, and its objects."""


Compare = Callable[..., DataSet]
"""See :func:`_compare`."""


@pytest.fixture
def channel(tmp_path: Path) -> WrittenChannel:
    return WrittenChannel(tmp_path)


@pytest.fixture(params=["bccd", "nuclei"])
def compare_with_coco(request: pytest.FixtureRequest, shared_data: Path) -> Compare:
    """Writes a real data set in another format and compares what is read with what COCO's file says."""
    return partial(_compare, shared_data / request.param)


def _compare(
    source: Path, folder: Path, write: Callable[[Images, list[str]], None], exact: bool = False
) -> DataSet:
    """Write a data set's annotations in another format into ``folder`` and compare with what COCO's say.

    Args:
        source: the data set.
        folder: a channel's.
        write: writes the annotations there; it gets the classes, too.
        exact: whether the boxes must be the same to the last bit.

    """
    coco = json.loads((source / "val.json").read_text())
    name_of = {row["id"]: row["name"] for row in coco["categories"]}
    rows: dict[int, list[Row]] = {row["id"]: [] for row in coco["images"]}
    for row in coco["annotations"]:
        rows[row["image_id"]].append((name_of[row["category_id"]], row["bbox"]))
    for image in coco["images"]:
        path = folder / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to((source / "images" / image["file_name"]).resolve())
    (folder / "val.json").symlink_to((source / "val.json").resolve())
    theirs = _read(folder)
    (folder / "val.json").unlink()
    write([(image, rows[image["id"]]) for image in coco["images"]], [name_of[key] for key in sorted(name_of)])
    ours = _read(folder)
    boxes = {Path(record.key.split(" (")[0]).stem: record for record in ours.train.sample}
    assert len(boxes) == len(theirs.train.sample) > 0
    for record in theirs.train.sample:
        other = boxes[Path(record.key).stem]
        assert [ours.classes[label] for label in other.targets.labels] == [
            theirs.classes[label] for label in record.targets.labels
        ]
        np.testing.assert_allclose(
            other.targets.boxes, record.targets.boxes, rtol=0, atol=0 if exact else 1e-3
        )
    return ours


def _read(folder: Path) -> DataSet:
    return read_data_set({"train": ChannelFolder(folder)}, None, validates=False, seed=0)
