from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from labelled_images import COLOURS, class_folders, record_file, several_labels, write_image
from PIL import Image
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from tilewise.data.choice import DataChoice, ObjectsAs
from tilewise.data.image_labels import ONE_LABEL, SEVERAL_LABELS
from tilewise.data.records import Records
from tilewise.errors import UserError

LABELS = ["a", "b", "a", "c"]


def read(
    train: Path,
    *others: tuple[str, Path],
    several: bool = False,
    num_classes: int | None = None,
    content_type: str = "",
    objects_as: ObjectsAs | None = None,
) -> DataSet:
    channels = {"train": ChannelFolder(train, content_type)}
    channels |= {name: ChannelFolder(path) for name, path in others}
    fields = frozenset({SEVERAL_LABELS if several else ONE_LABEL})
    choice = DataChoice(fields=fields, objects_as=objects_as)
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
    with pytest.raises(UserError, match="channel validation has classes that channel train does not know"):
        read(tmp_path / "train", ("validation", tmp_path / "validation"))
    write_image(tmp_path / "train" / "loose.png", [], 0)
    with pytest.raises(UserError, match=r"loose\.png lies in no folder, and the folder is an image's class"):
        read(tmp_path / "train")


def test_class_folders__of_an_archive_of_macos(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 1)
    for name in ("__MACOSX/red/._0.png", "__MACOSX/red/0.png", ".cache/0.png"):
        write_image(tmp_path / "train" / name, [], 0)
    data = read(tmp_path / "train")
    assert (data.classes, len(data.train.sample)) == (("blue", "green", "red"), 3)


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


@pytest.mark.parametrize("mark", [",", ", ", ";", "|"])
def test_csv__several_labels_with_a_mark_between_them(
    images: Path, mark: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows = [("0.png", ["b", "brown dog"]), ("1.png", []), ("2.png", ["brown dog"]), ("3.png", ["c", "b"])]
    lines = ["filename,labels", *(f'{name},"{mark.join(labels)}"' for name, labels in rows)]
    (images / "labels.csv").write_text("\n".join(lines))
    data = read(images, several=True)
    assert data.classes == ("b", "brown dog", "c")
    assert labels_of(data.train.sample) == {"0.png": [0, 1], "1.png": [], "2.png": [1], "3.png": [2, 0]}
    assert "stand between the classes of an image" in caplog.text


def test_csv__several_labels_as_a_list_of_python(images: Path) -> None:
    lines = ["filename,labels", *(f"{index}.png,\"['a', 'b']\"" for index in range(4))]
    (images / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"its label is .*: give the names of its classes with spaces or com"):
        read(images, several=True)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv__as_spreadsheets_of_other_countries_write_it(images: Path, delimiter: str) -> None:
    rows = ("filename,label", '0.png,"a, or b"', "1.png,c")
    text = "\n".join(row.replace(",", delimiter, 1) for row in rows)
    (images / "labels.csv").write_text(text)
    assert read(images).classes == ("a, or b", "c")


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "filename,label\ndeep/0.png,a\ndeep/1.png,b\n"),
        ("train.lst", "0\t1\tdeep/0.png\n1\t0\tdeep/1.png\n"),
    ],
)
def test_lists__images_in_no_row_are_told(
    images: Path, name: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (images / name).write_text(text)
    assert len(read(images).train.sample) == 2
    assert f"2 of its images are not annotated in {name} and not used, such as deep/2.png" in caplog.text


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


def test_recordio__with_the_list_that_im2rec_leaves_beside_it(images: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    paths = sorted(images.rglob("*.png"))
    record_file(packed / "train.rec", [(path, [index % 2]) for index, path in enumerate(paths)])
    (packed / "train.lst").write_text("0\t1\tdeep/0.png\n")
    (packed / "train.idx").write_text("0\t0\n")
    assert len(read(packed).train.sample) == len(paths)


def manifest(images: Path, *labels: object, **metadata: object) -> None:
    """A line an image; ``metadata`` of each label, where there is any."""
    lines = []
    for index, label in enumerate(labels):
        line = {"source-ref": f"s3://bucket/deep/{index}.png", "class": label}
        if metadata:
            own = {
                name: value[index] if isinstance(value, list) else value for name, value in metadata.items()
            }
            line["class-metadata"] = {"type": "groundtruth/image-classification", **own}
        lines.append(json.dumps(line))
    (images / "output.manifest").write_text("\n".join(lines) + "\n")


def test_manifest__one_class_by_its_id_and_name(images: Path) -> None:
    manifest(images, 7, 3, "7", 3, **{"class-name": ["dog", "cat", "dog", "cat"]})
    data = read(images)
    assert data.classes == ("cat", "dog")
    assert labels_of(data.train.sample) == {"0.png": [1], "1.png": [0], "2.png": [1], "3.png": [0]}
    manifest(images, 2, 0, 1, 2)
    assert read(images, num_classes=3).train.sample.targets.labels.tolist() == [2, 0, 1, 2]


def test_manifest__several_classes_as_a_row_or_by_their_ids(images: Path) -> None:
    manifest(images, [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0])
    data = read(images, several=True)
    assert data.classes == ("0", "1", "2")
    assert labels_of(data.train.sample) == {"0.png": [0], "1.png": [1], "2.png": [], "3.png": [0, 1]}
    manifest(images, [0], [1, 2], [], [1])
    by_id = "application/x-recordio; label-format=class-id"
    found = labels_of(read(images, several=True, content_type=by_id).train.sample)
    assert found == {"0.png": [0], "1.png": [1, 2], "2.png": [], "3.png": [1]}
    manifest(images, [4], [4, 0], [], [0], **{"class-map": {"0": "cat", "4": "dog"}})
    data = read(images, several=True)
    assert data.classes == ("cat", "dog")
    assert labels_of(data.train.sample) == {"0.png": [1], "1.png": [1, 0], "2.png": [], "3.png": [0]}


@pytest.mark.parametrize(
    ("label", "several", "message"),
    [
        ([1, 0], False, r"its label class: it is \[1, 0\] \(list\), and an image has one class here"),
        (1, True, r"its label class: it is 1 \(number\), and an image has a list of classes here"),
        ([0, 2], True, r"it is \[0, 2\] \(list\): give 0 or 1 for each class, or class ids with"),
        ("cat", False, r'it has "cat" \(text\), not a number'),
        (-1, False, "its label is -1, which is not 0, 1, 2"),
        (1e400, False, "its label is inf, which is not 0, 1, 2"),
        ({"a": 1}, False, "has no label attribute, a class or a list of classes, in any of its lines"),
    ],
)
def test_manifest__faults(images: Path, label: object, several: bool, message: str) -> None:
    manifest(images, label)
    with pytest.raises(UserError, match=message):
        read(images, several=several)


def test_manifest__rows_of_different_length(images: Path) -> None:
    manifest(images, [0, 1], [0, 1, 1])
    with pytest.raises(UserError, match="images have labels for 2, 3 classes: give 0 or 1 for each class"):
        read(images, several=True)


def coco(folder: Path, *objects: tuple[int, str, tuple[int, int, int, int]], ignored: bool = False) -> None:
    """Images with squares, each (number of the image, colour, corner and size)."""
    count = 1 + max(image for image, *_ in objects)
    pixels = np.full((count, 48, 64, 3), 120, np.uint8)
    names = sorted(COLOURS)
    rows = []
    for row, (image, colour, (x, y, width, height)) in enumerate(objects):
        pixels[image, y : y + height, x : x + width] = COLOURS[colour]
        kind = {"category_id": names.index(colour), "iscrowd": int(ignored and not row)}
        rows.append({"id": row, "image_id": image, "bbox": [x, y, width, height], **kind})
    folder.mkdir(parents=True, exist_ok=True)
    for image in range(count):
        Image.fromarray(pixels[image]).save(folder / f"{image}.png")
    content = {
        "images": [{"id": image, "file_name": f"{image}.png"} for image in range(count)],
        "annotations": rows,
        "categories": [{"id": label, "name": name} for label, name in enumerate(names)],
    }
    (folder / "coco.json").write_text(json.dumps(content))


def test_objects_as_crops__cut_out_with_a_margin(tmp_path: Path) -> None:
    coco(
        tmp_path,
        *((0, "red", (10, 10, 20, 10)), (0, "blue", (40, 30, 24, 18)), (1, "green", (0, 0, 10, 10))),
    )
    data = read(tmp_path, objects_as="crops")
    records = list(data.train.sample)
    assert data.classes == ("blue", "green", "red")
    assert [record.targets.labels.tolist() for record in records] == [[2], [0], [1]]
    # a tenth of the sides on each side, within the image
    assert [(record.width, record.height) for record in records] == [(24, 12), (27, 20), (11, 11)]
    assert records[0].key == "0.png, object 1"
    red = np.asarray(Image.open(records[0].path))
    assert red[6, 12].tolist() == list(COLOURS["red"]) and red[0, 0].tolist() == [120] * 3
    assert labels_of(data.train.sample)  # each is of the whole crop


def test_objects_as_crops__validation_has_other_images(tmp_path: Path) -> None:
    coco(tmp_path, *((image, "red", (x, 10, 8, 8)) for image in range(10) for x in (5, 30)))
    channels = {"train": ChannelFolder(tmp_path)}
    choice = DataChoice(fields=frozenset({ONE_LABEL}), objects_as="crops")
    data = read_data_set(channels, None, validates=True, validation_share=0.2, seed=1, choice=choice)
    assert data.validation is not None
    own, others = (
        {each.key.split(",")[0] for each in split.sample} for split in (data.train, data.validation)
    )
    assert len(own) == 8 and len(others) == 2 and not own & others


def test_objects_as_labels__of_their_images(tmp_path: Path) -> None:
    coco(
        tmp_path,
        *((0, "red", (10, 10, 20, 10)), (0, "blue", (40, 30, 9, 9)), (0, "blue", (4, 30, 9, 9))),
        *((2, "green", (0, 0, 10, 10)),),
    )
    records = read(tmp_path, objects_as="labels", several=True).train.sample
    assert [sorted(set(record.targets.labels.tolist())) for record in records] == [[0, 2], [], [1]]
    assert records[0].targets.boxes[0].tolist() == [10, 10, 30, 20]
    with pytest.raises(UserError, match=r"0\.png: it has objects of 2 classes \(blue, red\), and an image h"):
        read(tmp_path, objects_as="labels")
    coco(tmp_path, *((0, "red", (10, 10, 20, 10)), (2, "green", (0, 0, 10, 10))))
    assert len(read(tmp_path, objects_as="labels").train.sample) == 2  # the one without has no class
    coco(tmp_path, (0, "red", (10, 10, 20, 10)), ignored=True)
    with pytest.raises(UserError, match="channel train: no image has an object that gives it a class"):
        read(tmp_path, objects_as="crops")


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
