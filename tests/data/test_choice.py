from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tilewise.data.channel import DataSet, read_data_set
from tilewise.data.choice import DataChoice
from tilewise.errors import UserError
from written_channel import WrittenChannel

BOXES = {"car": [1, 1, 5, 5], "bus": [10, 1, 5, 5], "person": [20, 1, 5, 5]}


@pytest.fixture
def channel(tmp_path: Path) -> WrittenChannel:
    """Twelve images, each with a car, a bus and a person."""
    made = WrittenChannel(tmp_path)
    for number in range(12):
        made.image(f"{number}.png")
    images: list[Any] = [{"id": number, "file_name": f"{number}.png"} for number in range(12)]
    rows = [
        {"id": 3 * image + index, "image_id": image, "category_id": index, "bbox": BOXES[name]}
        for image in range(12)
        for index, name in enumerate(BOXES)
    ]
    categories = [{"id": index, "name": name} for index, name in enumerate(BOXES)]
    made.write("coco.json", json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return made


def read(channel: WrittenChannel, num_classes: int | None = None, **choice: Any) -> DataSet:
    return read_data_set(channel.folders, num_classes, validates=False, seed=0, choice=DataChoice(**choice))


@pytest.mark.parametrize("num_classes", [None, 2, 3])
def test_classes__in_the_order_of_the_job(channel: WrittenChannel, num_classes: int | None) -> None:
    data = read(channel, num_classes, classes=("person", "car"))
    assert data.classes == ("person", "car")
    first = data.train.sample[0].targets
    assert first.labels.tolist() == [1, 0] and first.boxes[:, 0].tolist() == [1, 20]


def test_classes__others_ignored_for_each_class(channel: WrittenChannel) -> None:
    first = read(channel, classes=("person", "car"), other_classes="ignore").train.sample[0].targets
    assert first.labels.tolist() == [1, 0, 0, 1] and first.ignored.tolist() == [False, False, True, True]
    assert first.boxes[2:, 0].tolist() == [10, 10]


def test_classes__that_the_data_does_not_have(channel: WrittenChannel) -> None:
    with pytest.raises(UserError, match="the data does not have 'cat': it has the classes car, bus, person"):
        read(channel, classes=("car", "cat"))


def test_max_images__a_subset_by_seed(channel: WrittenChannel) -> None:
    def keys(**choice: Any) -> list[str]:
        return [record.key for record in read(channel, **choice).train.sample]

    assert len(keys(max_images=5)) == 5 and keys(max_images=5) == keys(max_images=5)
    assert keys(max_images=5) != keys(max_images=5, seed=1)
    assert keys(max_images=12) == keys(max_images=100) == keys()
    assert keys(max_images=5) == sorted(keys(max_images=5), key=lambda key: int(key[:-4]))


def test_classes__with_nothing_left_to_learn(channel: WrittenChannel) -> None:
    data = read(channel, classes=("car",), max_images=3)
    assert np.bincount(data.train.sample.targets.labels).tolist() == [3]
