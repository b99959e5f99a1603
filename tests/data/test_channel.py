from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from tilewise.errors import UserError

Objects = list[list[int]]
"""For each image the class ids of its objects."""


class Channels:
    """Folders of channels in the making."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, ChannelFolder] = {}

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(exist_ok=True)
        self.folders[name] = ChannelFolder(path)
        return path

    def images(self, channel: str, count: int) -> list[str]:
        names = [f"{channel}{number}.png" for number in range(count)]
        for name in names:
            Image.new("L", (40, 30)).save(self.folder(channel) / name)
        return names

    def image_json(self, channel: str, objects: Objects, categories: dict[int, str] | None = None) -> None:
        folder = self.folder(f"{channel}_annotation")
        listed = [{"class_id": number, "name": name} for number, name in (categories or {}).items()]
        for name, ids in zip(self.images(channel, len(objects)), objects, strict=True):
            rows = [{"class_id": number, "left": 1, "top": 1, "width": 5, "height": 5} for number in ids]
            content = {"file": name, "annotations": rows, "categories": listed}
            (folder / f"{name[:-4]}.json").write_text(json.dumps(content))

    def coco(
        self, channel: str, objects: Objects, categories: dict[int, str], where: str | None = None
    ) -> None:
        names = self.images(channel, len(objects))
        rows = [(image, number) for image, ids in enumerate(objects) for number in ids]
        content = {
            "images": [{"id": image, "file_name": name} for image, name in enumerate(names)],
            "annotations": [
                {"id": row, "image_id": image, "category_id": number, "bbox": [1, 1, 5, 5]}
                for row, (image, number) in enumerate(rows)
            ],
            "categories": [{"id": number, "name": name} for number, name in categories.items()],
        }
        (self.folder(where or channel) / "coco.json").write_text(json.dumps(content))

    def read(
        self,
        num_classes: int | None = None,
        validation_share: float | None = None,
        validates: bool = True,
        seed: int = 0,
        class_map: dict[int, str] | None = None,
    ) -> DataSet:
        return read_data_set(
            self.folders,
            num_classes,
            validation_share=validation_share,
            validates=validates,
            seed=seed,
            class_map=class_map,
        )

    def message(self, **options: Any) -> str:
        with pytest.raises(UserError) as error:
            self.read(**options)
        return str(error.value)


@pytest.fixture
def channels(tmp_path: Path) -> Channels:
    return Channels(tmp_path)


def labels(data: DataSet) -> list[list[list[int]]]:
    splits = [split for split in (data.train, data.validation) if split]
    return [[record.targets.labels.tolist() for record in split.sample] for split in splits]


def test_image_json__with_validation(channels: Channels) -> None:
    channels.image_json("train", [[0, 1], [], [2]])
    channels.image_json("validation", [[1], []])
    data = channels.read(num_classes=3)
    assert data.classes == ("0", "1", "2")
    assert labels(data) == [[[0, 1], [], [2]], [[1], []]]


@pytest.mark.parametrize(
    ("train", "validation", "classes"),
    [
        ([[0], [3]], [[1]], ("0", "1", "2", "3")),
        ([[0], [1]], [[3]], ("0", "1", "2", "3")),
        ([[0], []], [[]], ("0",)),
        ([[], []], [[1]], ("0", "1")),
    ],
)
def test_image_json__classes_up_to_the_largest_id(
    channels: Channels, train: Objects, validation: Objects, classes: tuple[str, ...]
) -> None:
    channels.image_json("train", train)
    channels.image_json("validation", validation)
    assert channels.read().classes == classes


def test_image_json__names_that_no_object_has_are_said(
    channels: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    channels.image_json("train", [[0]], {0: "ant", 1: "bee", 2: "wasp"})
    assert channels.read(validates=False).classes == ("ant",)
    said = "left out of the classes, since no object has their id: bee, wasp (num_classes=3 keeps them)"
    assert said in caplog.text
    caplog.clear()
    assert channels.read(num_classes=3, validates=False).classes == ("ant", "bee", "wasp")
    assert "left out of the classes" not in caplog.text


def test_image_json__more_classes_than_ids(channels: Channels) -> None:
    channels.image_json("train", [[0]])
    assert channels.read(num_classes=4, validates=False).classes == ("0", "1", "2", "3")


@pytest.mark.parametrize("channel", ["train", "validation"])
def test_image_json__id_out_of_range(channels: Channels, channel: str) -> None:
    channels.image_json("train", [[0, 1]])
    channels.image_json("validation", [[0, 1]])
    channels.image_json(channel, [[1], [0, 7]])
    assert channels.message(num_classes=2) == (
        f"channel {channel}: {channel}1.json has class_id 7, but num_classes is 2, so ids go from 0 to 1: "
        "raise num_classes, correct the data, or list the ids that it has in the hyperparameter class_map, "
        'such as {"0": "dog", "5": "cat"}'
    )


def test_image_json__negative_id(channels: Channels) -> None:
    channels.image_json("train", [[0], [-1]])
    text = channels.message(validates=False)
    assert "train1.json: " in text and "class_id -1 (number) is not 0, 1, 2, …" in text


def test_image_json__no_objects_at_all(channels: Channels) -> None:
    channels.image_json("train", [[], []])
    assert channels.message(validates=False).startswith("channel train: no image has an object to learn")
    assert labels(channels.read(num_classes=2, validates=False)) == [[[], []]]


@pytest.mark.parametrize(
    ("categories", "classes"),
    [
        ({0: "ant", 1: "bee", 2: "cat"}, ("ant", "bee", "cat")),
        ({0: "ant", 1: "bee"}, ("ant", "bee", "2")),
        ({0: "ant", 1: "bee", 2: "cat", 9: "dog"}, ("ant", "bee", "cat")),
        ({1: "ant", 2: "bee", 3: "cat"}, ("0", "1", "2")),
        ({0: "ant", 1: "ant", 2: "cat"}, ("0", "1", "2")),
        ({0: "1", 2: "2"}, ("0", "1", "2")),
    ],
)
def test_image_json__names(channels: Channels, categories: dict[int, str], classes: tuple[str, ...]) -> None:
    channels.image_json("train", [[0, 1], [1]], categories)
    assert channels.read(num_classes=3, validates=False).classes == classes


def test_image_json__left_out_images_are_reported(channels: Channels) -> None:
    channels.image_json("train", [[0]] * 40)
    (channels.root / "train" / "train7.png").unlink()
    (channels.root / "train_annotation" / "train9.json").write_text("{")
    data = channels.read(validates=False)
    assert len(data.train.sample) == 38
    assert sorted(data.train.issues.left_out) == ["train7.json", "train9.json"]
    assert (data.train.issues.images, len(data.train.issues.left_out)) == (40, 2)


def test_coco__matched_by_name(channels: Channels) -> None:
    channels.coco("train", [[1, 2], [3]], {1: "ant", 2: "bee", 3: "cat"})
    channels.coco("validation", [[5, 9], [0]], {9: "ant", 5: "bee", 0: "cat"})
    data = channels.read()
    assert data.classes == ("ant", "bee", "cat")
    assert labels(data) == [[[0, 1], [2]], [[1, 0], [2]]]


def test_coco__classes_that_validation_lacks_or_does_not_use(channels: Channels) -> None:
    channels.coco("train", [[1, 2]], {1: "ant", 2: "bee"})
    channels.coco("validation", [[3]], {3: "bee", 4: "unused"})
    assert labels(channels.read()) == [[[0, 1]], [[1]]]


def test_coco__class_that_train_does_not_know(channels: Channels) -> None:
    channels.coco("train", [[1, 2]], {1: "ant", 2: "bee"})
    channels.coco("validation", [[1, 3]], {1: "ant", 3: "wasp"})
    text = channels.message()
    assert "does not know: channel train has (ant, bee), channel validation has (ant, wasp); rename" in text
    assert "rename or remove wasp" in text


def test_coco__in_the_annotation_channel(channels: Channels) -> None:
    for channel in ("train", "validation"):
        channels.coco(channel, [[1]], {1: "ant"}, where=f"{channel}_annotation")
    data = channels.read()
    assert data.classes == ("ant",) and labels(data) == [[[0]], [[0]]]


@pytest.mark.parametrize(("count", "classes"), [(3, ("no", "ant", "bee")), (2, ("ant", "bee"))])
def test_coco__num_classes_agrees(channels: Channels, count: int, classes: tuple[str, ...]) -> None:
    """Also with the categories that have objects: some tools add one for all, which has none."""
    channels.coco("train", [[1], [2]], {0: "no", 1: "ant", 2: "bee"})
    channels.coco("validation", [[2]], {0: "no", 1: "ant", 2: "bee"})
    data = channels.read(num_classes=count)
    assert data.classes == classes
    assert labels(data)[1] == [[classes.index("bee")]]


@pytest.mark.parametrize("count", [1, 4])
def test_coco__num_classes_disagrees(channels: Channels, count: int) -> None:
    channels.coco("train", [[1], [2]], {0: "no", 1: "ant", 2: "bee"})
    assert channels.message(num_classes=count, validates=False) == (
        f"num_classes is {count}, but channel train has 3 categories (no, ant, bee), 2 of them with objects"
    )


def test_coco__several_files(channels: Channels) -> None:
    channels.coco("train", [[1]], {1: "ant"})
    file = channels.root / "train" / "coco.json"
    (channels.root / "train" / "more.json").write_bytes(file.read_bytes())
    assert "channel train holds several COCO files (coco.json, more.json)" in channels.message(
        validates=False
    )


def test_formats__differ(channels: Channels) -> None:
    channels.coco("train", [[1]], {1: "ant"})
    channels.image_json("validation", [[0]])
    wanted = "the classes of train are {}, of validation {}: use one format for all channels"
    assert channels.message().startswith(wanted.format("names", "numbers"))
    channels.image_json("train", [[0]])
    (channels.root / "train" / "coco.json").unlink()
    channels.coco("validation", [[1]], {1: "ant"}, where="validation_annotation")
    assert channels.message().startswith(wanted.format("numbers", "names"))


def test_channels__no_train(channels: Channels) -> None:
    channels.image_json("validation", [[0]])
    text = channels.message()
    assert text.startswith("the channel train is missing (channels given: validation, validation_annotation)")
    with pytest.raises(UserError, match=r"\(channels given: none\)"):
        read_data_set({}, None, validation_share=0.2, validates=True, seed=0)


@pytest.mark.parametrize("missing", ["train", "train_annotation"])
def test_channels__folder_is_not_there(channels: Channels, missing: str) -> None:
    channels.image_json("train", [[0]])
    channels.folders[missing] = ChannelFolder(channels.root / "gone")
    assert channels.message(validates=False) == (
        f"the folder of channel {missing} is not there: {channels.root / 'gone'}"
    )


def test_channels__empty(channels: Channels) -> None:
    channels.folder("train")
    assert channels.message(validates=False).startswith(
        "channel train holds no images, and no annotations of a known form: give "
    )


def test_channels__images_without_annotations(channels: Channels) -> None:
    channels.images("train", 3)
    assert channels.message(validates=False).startswith(
        "channel train holds 3 images (train0.png, train1.png, train2.png), but no annotations of a known "
    )
    channels.folder("train_annotation")
    assert channels.message(validates=False).startswith(
        "channel train holds 3 images (train0.png, train1.png, train2.png), but no annotations of a known "
        "form (nor does train_annotation): give "
    )


def test_channels__images_of_other_names(channels: Channels) -> None:
    channels.coco("train", [[1]] * 7, {1: "ant"})
    for file in channels.folders["train"].path.glob("*.png"):
        file.rename(file.with_name(f"x_{file.name}"))
    text = channels.message(validates=False)
    assert "7 of 7 images cannot be used, more than 5% (the image files in it are x_train0.png, x_" in text
    assert "x_train4.png, …); fix or remove them, starting with: train0.png: its image file is not in" in text


def test_channels__annotations_without_images(channels: Channels) -> None:
    channels.image_json("train", [[0]] * 3)
    for file in channels.folders["train"].path.iterdir():
        file.unlink()
    text = channels.message(validates=False)
    assert text.startswith("channel train: 3 of 3 images cannot be used")
    assert all(f"train{number}.json: its image train{number}.png" in text for number in range(3))


def test_channels__every_annotation_broken(channels: Channels) -> None:
    channels.image_json("train", [[0]] * 3)
    for file in channels.folders["train_annotation"].path.iterdir():
        file.write_text("{")
    text = channels.message(validates=False)
    assert text.startswith("channel train: 3 of 3 images cannot be used")
    assert "train0.json: not valid JSON" in text


def test_split__without_validation_channel(channels: Channels) -> None:
    channels.coco("train", [[1]] * 20, {1: "ant"})
    data = channels.read(validation_share=0.2, seed=3)
    assert data.validation is not None
    keys = [{record.key for record in split.sample} for split in (data.train, data.validation)]
    assert [len(some) for some in keys] == [16, 4] and not keys[0] & keys[1]
    assert data.validation.issues.images == 4
    again = channels.read(validation_share=0.2, seed=3)
    assert again.validation is not None
    assert {record.key for record in again.validation.sample} == keys[1]
    others = [channels.read(validation_share=0.2, seed=seed).validation for seed in range(4)]
    assert any({record.key for record in other.sample} != keys[1] for other in others if other)


def test_split__by_the_share_that_the_job_says(channels: Channels, caplog: pytest.LogCaptureFixture) -> None:
    channels.coco("train", [[1]] * 20, {1: "ant"})
    with caplog.at_level("INFO"):
        data = channels.read(validation_share=0.35)
    assert data.validation is not None
    assert (len(data.train.sample), len(data.validation.sample)) == (13, 7)
    assert "no validation channel: 35 % of the training images validate" in caplog.text


def test_split__not_for_the_built_in_algorithm(channels: Channels) -> None:
    channels.coco("train", [[1]] * 20, {1: "ant"})
    assert channels.message().startswith("the channel validation is missing: ")


@pytest.mark.parametrize("share", [0.2, None])
def test_split__not_where_nothing_validates(channels: Channels, share: float | None) -> None:
    channels.coco("train", [[1]] * 20, {1: "ant"})
    data = channels.read(validation_share=share, validates=False)
    assert data.validation is None and len(data.train.sample) == 20


def test_split__not_where_there_is_a_validation_channel(channels: Channels) -> None:
    channels.coco("train", [[1]] * 20, {1: "ant"})
    channels.coco("validation", [[1]] * 2, {1: "ant"})
    data = channels.read(validation_share=0.2)
    assert data.validation is not None
    assert (len(data.train.sample), len(data.validation.sample)) == (20, 2)


@pytest.mark.parametrize("count", [1, 2])
def test_split__of_too_few(channels: Channels, count: int) -> None:
    channels.coco("train", [[1]] * count, {1: "ant"})
    assert channels.message(validation_share=0.2) == (
        f"channel train holds {count} images, of which validation_data_size=0.2 sets 0 aside: give a channel "
        "validation, or another share"
    )


def test_log__table_of_what_was_found(channels: Channels, caplog: pytest.LogCaptureFixture) -> None:
    channels.coco("train", [[1, 2], []], {1: "ant", 2: "bumblebee"})
    channels.coco("validation", [[2]], {2: "bumblebee"})
    with caplog.at_level(logging.INFO, "tilewise"):
        channels.read()
    *holds, table = caplog.messages
    assert holds == ["channel train holds COCO (coco.json)", "channel validation holds COCO (coco.json)"]
    assert table.startswith("the data:\n") and re.search(r"class: bumblebee +1 +1\n", table)


def test_test_channel__in_the_classes_of_train(channels: Channels) -> None:
    channels.coco("train", [[1], [2]], {1: "ant", 2: "bee"})
    channels.coco("test", [[1], [], [2]], {1: "bee", 2: "ant"})
    data = channels.read(validates=False)
    assert data.test is not None and [record.targets.labels.tolist() for record in data.test.sample] == [
        [1],
        [],
        [0],
    ]


@pytest.mark.parametrize(
    ("content_type", "words"),
    [
        (
            "application/x-recordio",
            "application/x-recordio, which stands for RecordIO or an augmented manifest, but it "
            "holds COCO (coco.json)",
        ),
        ("image/jpeg", None),
        ("", None),
    ],
)
def test_content_type__counts_first(channels: Channels, content_type: str, words: str | None) -> None:
    channels.coco("train", [[1]], {1: "ant"})
    channels.folders["train"] = ChannelFolder(channels.root / "train", content_type)
    if words:
        assert words in channels.message(validates=False)
    else:
        assert channels.read(validates=False).classes == ("ant",)


def test_real_data__bccd(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    (folder / "images").mkdir(parents=True)
    source = (shared_data / "bccd").resolve()
    (folder / "train.json").symlink_to(source / "train.json")
    whole = json.loads((folder / "train.json").read_text())
    for row in whole["images"]:
        (folder / "images" / row["file_name"]).symlink_to(source / "images" / row["file_name"])
    data = read_data_set({"train": ChannelFolder(folder)}, None, validation_share=0.2, validates=True, seed=0)
    assert data.validation is not None
    assert len(data.train.sample) + len(data.validation.sample) == len(whole["images"])
    assert not data.train.issues.left_out
    assert sorted(data.classes) == sorted(row["name"] for row in whole["categories"])


def test_class_map__sparse_ids(channels: Channels) -> None:
    channels.image_json("train", [[9, 2], [2], []], categories={9: "x", 2: "y"})
    channels.image_json("validation", [[9]])
    data = channels.read(class_map={2: "ant", 5: "bee", 9: "cow"})
    assert data.classes == ("ant", "bee", "cow")
    assert labels(data) == [[[2, 0], [0], []], [[2]]]


def test_class_map__unknown_id(channels: Channels) -> None:
    channels.image_json("train", [[2]])
    channels.image_json("validation", [[2], [3]])
    assert channels.message(class_map={2: "ant", 9: "cow"}) == (
        "channel validation: validation1.json has class_id 3, but class_map has only 2, 9: add it there"
    )


def test_class_map__classes_have_names_already(channels: Channels) -> None:
    channels.coco("train", [[1]], {1: "ant"})
    assert channels.message(class_map={1: "bee"}, validates=False).endswith(
        "the channels hold a format whose classes have names (ant): leave class_map out"
    )
