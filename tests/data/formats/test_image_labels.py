from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from labelled_images import class_folders, record_file, several_labels, write_image
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from tilewise.data.choice import DataChoice
from tilewise.data.image_labels import ONE_LABEL, SEVERAL_LABELS
from tilewise.data.records import Records
from tilewise.errors import UserError

LABELS = ["a", "b", "a", "c"]


def read(
    train: Path, *others: tuple[str, Path], several: bool = False, num_classes: int | None = None
) -> DataSet:
    channels = {"train": ChannelFolder(train), **{name: ChannelFolder(path) for name, path in others}}
    choice = DataChoice(fields=frozenset({SEVERAL_LABELS if several else ONE_LABEL}))
    validates = "validation" in channels
    return read_data_set(channels, num_classes, validates=validates, seed=0, choice=choice)


def labels_of(records: Records) -> dict[str, list[int]]:
    """By the image's name; each label is of the whole image."""
    found = {}
    for record in records:
        assert (record.targets.boxes == [0, 0, record.width, record.height]).all()
        found[record.path.name] = record.targets.labels.tolist()
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index in range(4):
        write_image(tmp_path / "train" / "deep" / f"{index}.png", ["red"], index)
    return tmp_path / "train"


def test_class_folders__are_the_classes(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 2)
    (tmp_path / "train" / "blue" / "more").mkdir()
    write_image(tmp_path / "train" / "blue" / "more" / "x.png", ["blue"], 1)
    data = read(tmp_path / "train", several=False)
    assert data.classes == ("blue", "green", "red")
    assert np.bincount(data.train.sample.targets.labels).tolist() == [3, 2, 2]


def test_class_folders__one_of_several_labels_each(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 2)
    assert read(tmp_path / "train", several=True).train.sample.object_counts.tolist() == [1] * 6


def test_class_folders__empty_loose_or_unknown(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 1)
    class_folders(tmp_path / "validation", 1)
    (tmp_path / "train" / "white").mkdir()
    with pytest.raises(UserError, match="channel train: the class white has a folder without an image"):
        read(tmp_path / "train")
    (tmp_path / "train" / "white").rmdir()
    write_image(tmp_path / "validation" / "white" / "0.png", [], 0)
    with pytest.raises(UserError, match="channel validation has objects of classes that channel train does"):
        read(tmp_path / "train", ("validation", tmp_path / "validation"))
    write_image(tmp_path / "train" / "loose.png", [], 0)
    with pytest.raises(UserError, match=r"loose\.png lies in no folder, and the folder is an image's class"):
        read(tmp_path / "train")


def test_class_folders__num_classes_that_disagrees(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 1)
    with pytest.raises(UserError, match=r"num_classes is 2, but channel train has 3 categories \(blue, gre"):
        read(tmp_path / "train", num_classes=2)


def test_azure_lines__one_label(images: Path) -> None:
    lines = [
        json.dumps({"image_url": f"deep/{index}.png", "label": name}) for index, name in enumerate(LABELS)
    ]
    (images / "labels.jsonl").write_text("\n".join(lines))
    data = read(images)
    assert data.classes == ("a", "b", "c")
    assert labels_of(data.train.sample) == {"0.png": [0], "1.png": [1], "2.png": [0], "3.png": [2]}


def test_azure_lines__several_labels_or_none(tmp_path: Path) -> None:
    expected = several_labels(tmp_path / "train", 20)
    data = read(tmp_path / "train", several=True)
    found = labels_of(data.train.sample)
    assert [] in expected
    assert [[data.classes[label] for label in found[f"{index}.png"]] for index in range(20)] == expected


def test_azure_lines__the_wrong_kind(images: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps({"image_url": f"deep/{index}.png", "label": [name]}) for index, name in enumerate(LABELS)
    ]
    (images / "labels.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r'label is \["a"\] \(list\), and an image has one class here'):
        read(images)
    (images / "labels.jsonl").write_text("\n".join(lines).replace("[", "").replace("]", ""))
    with pytest.raises(UserError, match=r'label is "a" \(text\), and an image has a list of classes here'):
        read(images, several=True)
    boxes = json.dumps({"image_url": "deep/0.png", "label": [{"label": "a", "topX": 0.1}]})
    (images / "labels.jsonl").write_text(boxes)
    with pytest.raises(UserError, match="its label is a list of objects with boxes"):
        read(images)


def test_csv__one_label_and_several(images: Path) -> None:
    rows = [f"{index}.png,{name}" for index, name in enumerate(LABELS)]
    (images / "labels.csv").write_text("\n".join(["filename,label", *rows]))
    assert labels_of(read(images).train.sample)["3.png"] == [2]
    (images / "labels.csv").write_text("filename,labels\n0.png,b a\n1.png,\n2.png,a\n3.png,c b\n")
    found = labels_of(read(images, several=True).train.sample)
    assert found == {"0.png": [1, 0], "1.png": [], "2.png": [0], "3.png": [2, 1]}


def test_csv__faults(images: Path) -> None:
    (images / "labels.csv").write_text("0.png,a\n1.png,b\n")
    with pytest.raises(UserError, match=r"labels\.csv: its first line must be a title, such as filename,lab"):
        read(images)
    (images / "labels.csv").write_text("filename,label\n0.png,a\n9.png,b\n1.png\n")
    with pytest.raises(UserError, match=r"9\.png is not in the channel.*|it has 1 cells, and the title 2"):
        read(images)
    (images / "labels.csv").write_text("filename,label\n0.png,a\ndeep/0.png,b\n")
    with pytest.raises(UserError, match=r"annotate the same image 0\.png: keep one"):
        read(images)


def test_lst__in_its_own_channel(images: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.lst").write_text("0\t1\tdeep/0.png\n1\t0.0\tdeep/1.png\n5\t1\tdeep/2.png\n")
    data = read(images, ("train_lst", lists))
    assert data.classes == ("0", "1")
    assert labels_of(data.train.sample) == {"0.png": [1], "1.png": [0], "2.png": [1]}
    (lists / "train.lst").write_text("0\t1\t0\t1\tdeep/0.png\n1\t0\t0\t0\tdeep/1.png\n")
    data = read(images, ("train_lst", lists), several=True)
    assert data.classes == ("0", "1", "2")
    assert labels_of(data.train.sample) == {"0.png": [0, 2], "1.png": []}


@pytest.mark.parametrize(
    ("line", "several", "message"),
    [
        ("0\t1\t0\tdeep/0.png", False, "it has 2 labels, and an image has one class here"),
        ("0\t1\tdeep/0.png", True, "its label is one number, and an image has several classes here"),
        ("0\t3\t1\tdeep/0.png", True, "its labels have the number 3: give 0 or 1 for each class"),
        ("0\t1.5\tdeep/0.png", False, "its label is 1.5, which is not 0, 1, 2"),
        ("0\tcat\tdeep/0.png", False, "its label is no number"),
        ("0 1 deep/0.png", False, "it has 1 columns: give index, label and path, separated by tabs"),
    ],
)
def test_lst__faults(images: Path, line: str, several: bool, message: str) -> None:
    (images / "train.lst").write_text(f"{line}\n")
    with pytest.raises(UserError, match=message):
        read(images, several=several)


def test_recordio__one_label_and_several(images: Path, tmp_path: Path) -> None:
    paths = sorted((images / "deep").iterdir())
    packed = tmp_path / "packed"
    packed.mkdir()
    record_file(
        packed / "train.rec", [(path, [label]) for path, label in zip(paths, (2, 0, 1, 2), strict=True)]
    )
    data = read(packed, num_classes=3)
    assert data.classes == ("0", "1", "2") and data.train.sample.targets.labels.tolist() == [2, 0, 1, 2]
    with pytest.raises(UserError, match="num_classes is 2, so ids go from 0 to 1"):
        read(packed, num_classes=2)
    with pytest.raises(UserError, match="its label is one number, and an image has several classes here"):
        read(packed, several=True)
    record_file(packed / "train.rec", [(path, [1, 0, 1]) for path in paths])
    assert read(packed, several=True).train.sample.object_counts.tolist() == [2] * 4
    with pytest.raises(UserError, match="it has 3 labels, and an image has one class here"):
        read(packed)
    record_file(packed / "train.rec", [(paths[0], [1, 0, 1]), (paths[1], [1, 0])])
    with pytest.raises(UserError, match="images have labels for 2, 3 classes"):
        read(packed, several=True)


def test_damaged_images__are_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 4)
    (tmp_path / "train" / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"channel train: 1 of 12 images cannot be used.*red/0\.png"):
        read(tmp_path / "train")


def test_objects__are_no_labels(images: Path) -> None:
    (images / "coco.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    for path in (images / "deep").iterdir():
        path.rename(images / path.name)
    (images / "deep").rmdir()
    with pytest.raises(
        UserError, match=r"no labels of images of a known form: .*is of objects, for task=det"
    ):
        read(images)
