from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks
from tilewise.data.annotations import ParsedChannel
from tilewise.data.files.folder import Folder
from tilewise.data.files.json_lines import MAX_CANDIDATES
from tilewise.data.formats import coco
from tilewise.data.formats.coco import find_coco_file, read_coco
from tilewise.errors import UserError

CATEGORIES = [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}]


def image(number: Any = 1, name: str = "a.jpg", **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, **more}


def annotation(number: int = 1, image_id: Any = 1, category_id: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": [1, 2, 3, 4], **more}


def content(images: Any = None, annotations: Any = None, categories: Any = None) -> dict[str, Any]:
    return {
        "images": [image()] if images is None else images,
        "annotations": [] if annotations is None else annotations,
        "categories": CATEGORIES if categories is None else categories,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A channel with one image."""
    channel = tmp_path / "train"
    write_image(channel / "a.jpg")
    return channel


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)
    return path


def read(folder: Path, content: Any) -> ParsedChannel:
    file = folder / "train.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_coco(file, Folder(folder))


def message(folder: Path, content: Any) -> str:
    with pytest.raises(UserError) as error:
        read(folder, content)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_read_coco__as_specified(folder: Path) -> None:
    path = write_image(folder / "b.png")
    found = read(
        folder,
        {
            "info": {"year": 2017},
            "licenses": [],
            "images": [image(7, "b.png", width=40, height=30, license=3), image(3, "a.jpg")],
            "annotations": [
                annotation(
                    1, 7, 2, bbox=[1.5, 2.25, 10, 5], area=50, iscrowd=0, segmentation=[[1, 2, 3, 4, 5, 6]]
                ),
                annotation(
                    2, 7, 1, bbox=[0, 0, 40, 30], iscrowd=1, segmentation={"counts": [1], "size": [30, 40]}
                ),
            ],
            "categories": [{"id": 2, "name": "bee", "supercategory": "insect"}, {"id": 1, "name": "ant"}],
        },
    )
    assert found.classes == ("ant", "bee") and found.used == {0, 1}
    first, second = found.examples
    assert (first.key, first.path, first.size) == ("b.png", path, (40, 30))
    assert first.targets.boxes.tolist() == [[1.5, 2.25, 11.5, 7.25], [0, 0, 40, 30]]
    assert first.targets.boxes.dtype == np.float32
    assert first.targets.labels.tolist() == [1, 0] and first.targets.ignored.tolist() == [False, True]
    assert (second.key, second.size, len(second.targets.boxes)) == ("a.jpg", None, 0)


def test_categories__sparse_ids_in_any_order(folder: Path) -> None:
    categories = [{"id": 90, "name": "z"}, {"id": 0, "name": "m"}, {"id": 17, "name": "a"}]
    annotations = [annotation(number, 1, number) for number in (17, 90, 0, 17)]
    found = read(folder, content(annotations=annotations, categories=categories))
    assert found.classes == ("m", "a", "z")
    assert found.examples[0].targets.labels.tolist() == [1, 2, 0, 1]


def test_categories__unused_ones_stay(folder: Path) -> None:
    found = read(folder, content(annotations=[annotation(category_id=2)]))
    assert found.classes == ("ant", "bee") and found.used == {1}


def test_annotations__ids_as_strings(folder: Path) -> None:
    found = read(folder, content([image("x")], [annotation(1, "x", "2")]))
    assert found.examples[0].targets.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("crowd", "ignored"), [(0, False), (1, True), ("0", False), (True, True), (None, False)]
)
def test_annotations__crowd_is_ignored(folder: Path, crowd: Any, ignored: bool) -> None:
    assert read(folder, content(annotations=[annotation(iscrowd=crowd)])).examples[
        0
    ].targets.ignored.tolist() == [ignored]


@pytest.mark.parametrize("annotations", [None, []])
def test_annotations__none(folder: Path, annotations: Any) -> None:
    found = read(folder, {**content(), "annotations": annotations})
    assert len(found.examples) == 1 and not found.used


@pytest.mark.parametrize(
    "more", [{}, {"width": 40}, {"width": None, "height": None}, {"width": 0, "height": 0}]
)
def test_images__size_may_be_left_out(folder: Path, more: dict[str, Any]) -> None:
    assert read(folder, content([image(**more)])).examples[0].size is None


def test_images__size_in_other_forms(folder: Path) -> None:
    assert read(folder, content([image(width="40", height=30.0)])).examples[0].size == (40, 30)


@pytest.mark.parametrize(
    ("on_disk", "name"),
    [
        ("images/b.jpg", "b.jpg"),
        ("images/b.jpg", "images/b.jpg"),
        ("x/y/b.JPG", "x/y/b.JPG"),
        ("x/y/b.jpg", "b.jpg"),
        ("b.png", "train2017/b.png"),
        ("images/mit Raum/größe 木.jpg", "mit Raum/größe 木.jpg"),
        ("a.jpg", "/data/upload/1/0123abcd-a.jpg"),  # as Label Studio's converter leaves it
    ],
)
def test_images__found(folder: Path, on_disk: str, name: str) -> None:
    path = write_image(folder / on_disk)
    (example,) = read(folder, content([image(1, name)])).examples
    assert (example.key, example.path) == (name, path)


@pytest.mark.parametrize("name", ["c.jpg", "../secret.jpg", "images/../../secret.jpg", "/etc/a.png", ""])
def test_images__not_in_the_channel(folder: Path, name: str) -> None:
    write_image(folder.parent / "secret.jpg")
    (example,) = read(folder, content([image(1, name)])).examples
    assert (example.key, example.path) == (name, None)
    assert example.problem == "its image file is not in the channel, or not only once"


def test_images__without_a_name(folder: Path) -> None:
    _, example = read(folder, content([image(), {"id": 2, "file_name": None}])).examples
    assert (example.key, example.path, example.problem) == ("images[1]", None, "its file_name is null")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"", "train.json is not valid JSON: Expecting value"),
        (b'{"images": [', "train.json is not valid JSON: "),
        (b'{"images": [{"file_name": "\xff"}]}', "train.json is not valid JSON: 'utf-8' codec"),
        (b'{"info": ' + b"[" * 100_000, "train.json is not valid JSON: maximum recursion"),
        (b"[]", "Expected `object`, got `array`"),
        ({"annotations": [], "categories": CATEGORIES}, "Object missing required field `images`"),
        ({"images": []}, "Object missing required field `categories`"),
        (content(categories=[]), "it has no categories"),
        (content(categories=[{"id": 1}]), "the category 1 (number): the key 'name' is missing"),
        (content(categories=[{"id": 1, "name": None}]), "the category 1 (number) has no name: null"),
        (
            content(categories=[{"id": [], "name": "y"}]),
            "categories[0] has the id [] (list), neither a number",
        ),
        (
            content(categories=[*CATEGORIES, {"id": 2, "name": "c"}]),
            "two of the categories have the same id, 2 (number)",
        ),
        (
            content(categories=[*CATEGORIES, {"id": 3, "name": "ant"}]),
            "two of its categories have the same name, of ant, bee, ant",
        ),
        (content([image(), image(1, "b.jpg")]), "two of the images have the same id, 1 (number)"),
        (content([image(), image(2, "x/a.jpg")]), "two images are the same file: a.jpg and x/a.jpg"),
        (content([{"id": 1}]), "images[0]: the key 'file_name' is missing"),
        (content([{"file_name": "a.jpg"}]), "images[0]: the key 'id' is missing"),
        (
            content(annotations=[annotation(8, 5)]),
            "annotation 8 has image_id 5 (number), which none of the images has: their ids are 1 (number)",
        ),
        (
            content(annotations=[annotation(8, 1, 3)]),
            "annotation 8 has category_id 3 (number), which none of the categories has: their",
        ),
        (
            content(annotations=[annotation(7), {"id": 8, "image_id": 1, "bbox": [1, 2, 3, 4]}]),
            "annotations[1]: the key 'category_id' is missing",
        ),
        (content(annotations=3), "Expected `array | null`, got `int` - at `$.annotations`"),
        (content(images=[3]), "Expected `object`, got `int` - at `$.images[0]`"),
        (content(annotations=[annotation(), 3]), "Expected `object`, got `int` at `$.annotations[1]`"),
        (
            content(annotations=[annotation(8, [1])]),
            "annotation 8 has image_id [1] (list), which none of",
        ),
        (content(annotations=[{**annotation(8), "iscrowd": "x"}]), 'annotation 8 has iscrowd "x" (text)'),
    ],
)
def test_read_coco__what_is_wrong_is_named(folder: Path, broken: Any, reason: str) -> None:
    text = message(folder, broken)
    assert text.startswith("train.json is not ") and reason in text


def test_read_coco__boxes_that_are_not_finite_are_left_to_the_check(folder: Path) -> None:
    found = read(folder, content(annotations=[annotation(bbox=[1, 2, float("nan"), 4])]))
    assert np.isnan(found.examples[0].targets.boxes).any()


def test_read_coco__annotations_in_any_order(folder: Path) -> None:
    write_image(folder / "b.jpg")
    rows = [
        annotation(number, image_id, 1 + number % 2, bbox=[number, 0, 1, 1])
        for number, image_id in enumerate("babba")
    ]
    first, second = read(folder, content([image("a"), image("b", "b.jpg")], rows)).examples
    assert first.targets.boxes[:, 0].tolist() == [1, 4] and second.targets.boxes[:, 0].tolist() == [0, 2, 3]
    assert first.targets.labels.tolist() == [1, 0] and second.targets.labels.tolist() == [0, 0, 1]


def test_read_coco__byte_order_mark(folder: Path) -> None:
    found = read(folder, b"\xef\xbb\xbf" + json.dumps(content(annotations=[annotation()])).encode())
    assert found.examples[0].targets.boxes.tolist() == [[1, 2, 4, 6]]


def test_find_coco_file__where_it_may_stand(tmp_path: Path) -> None:
    for name in ("train.json", "annotations/instances.json", "images/a.json", "deep/er/coco.json", "labels"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(json.dumps(content()))
        assert find_coco_file(Folder(tmp_path)) == file
        file.unlink()


def test_find_coco_file__none(tmp_path: Path) -> None:
    assert find_coco_file(Folder(tmp_path)) is None
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "a.json").write_text('{"file": "images/a.jpg", "annotations": [], "categories": []}')
    (tmp_path / "b.json").write_text('{"file": "b.jpg", "categories": [{"class_id": 0, "name": "images"}]}')
    (tmp_path / "c.json").write_text('{"file": "c.jpg", "image_id": 3, "file_name": "c.jpg"}')
    (tmp_path / "._train.json").write_text(json.dumps(content()))
    assert find_coco_file(Folder(tmp_path)) is None


def test_find_coco_file__several(tmp_path: Path) -> None:
    channel = tmp_path / "train"
    (channel / "annotations").mkdir(parents=True)
    for name in ("val.json", "annotations/train.json"):
        (channel / name).write_text(json.dumps(content()))
    with pytest.raises(
        UserError, match=r"channel train holds several COCO files \(annotations/train.json, val.json\)"
    ):
        find_coco_file(Folder(channel))


@pytest.mark.parametrize("order", ["images annotations categories", "annotations images categories"])
@pytest.mark.parametrize("indent", [None, 2])
def test_find_coco_file__large(tmp_path: Path, order: str, indent: int | None) -> None:
    count = 4000
    whole = content(
        [image(number, f"{number:08}.jpg") for number in range(count)],
        [annotation(number, number) for number in range(count)],
        [{"id": number, "name": f"class {number}"} for number in range(3000)],
    )
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({key: whole[key] for key in order.split()}, indent=indent))
    assert file.stat().st_size > 3 * coco.PEEK
    assert find_coco_file(Folder(tmp_path)) == file


def bytes_read() -> int:
    """All that this process has read until now."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_find_coco_file__reads_little_of_a_large_file(tmp_path: Path) -> None:
    file = tmp_path / "coco.json"
    with file.open("wb") as stream:
        stream.write(b'{"images": [')
        stream.seek(4 * 1024**3)  # sparse: it takes no space
        stream.write(b"]}")
    before = bytes_read()
    assert find_coco_file(Folder(tmp_path)) == file
    assert bytes_read() - before < 64 * 2**20


def test_find_coco_file__among_many_others(tmp_path: Path) -> None:
    """Of many large ones only the first are looked into."""
    for number in range(300):
        (tmp_path / f"{number}.json").write_text('{"file": "a.jpg", "annotations": []}' + 100_000 * " ")
    before = bytes_read()
    assert find_coco_file(Folder(tmp_path)) is None
    assert bytes_read() - before < 5 * MAX_CANDIDATES * 100_000
    (tmp_path / "zoo.json").write_text(json.dumps(content()) + 110_000 * " ")
    assert find_coco_file(Folder(tmp_path)) == tmp_path / "zoo.json"


def test_read_coco__real_data_sets(shared_data: Path) -> None:
    for name in ("bccd", "hemocytometer", "nuclei"):
        file = shared_data / name / "train.json"
        whole = json.loads(file.read_text())
        found = read_coco(file, Folder(shared_data / name))
        assert len(found.examples) == len(whole["images"])
        assert sum(len(example.targets.boxes) for example in found.examples) == len(whole["annotations"])
        assert all(example.path for example in found.examples), name


SQUARE = [5, 6, 15, 6, 15, 26, 5, 26]
MASK = np.zeros((30, 40), np.uint8, order="F")
MASK[6:26, 5:15] = 1


@pytest.mark.parametrize("bbox", [{}, {"bbox": None}, {"bbox": []}, {"bbox": [0, 0, 0, 0]}])
@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        SQUARE,
        [SQUARE[:6], SQUARE[2:]],
        {"size": [30, 40], "counts": masks.encode(MASK)["counts"].decode()},
        {"size": [30, 40], "counts": [156, *[20, 10] * 9, 20, 30 * 40 - 156 - 20 * 10 - 10 * 9]},
    ],
)
def test_outlines__where_there_is_no_bbox(folder: Path, bbox: dict[str, Any], segmentation: Any) -> None:
    row = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation, **bbox}
    for text in (json.dumps(content(annotations=[row])), json.dumps(content(annotations=[row])) + "\n"):
        found = read(folder, text.encode())
        assert found.examples[0].targets.boxes.tolist() == [[5, 6, 15, 26]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"bbox": None}, "has the bbox null, not 4 numbers"),
        ({"bbox": [1, 2, 3]}, "has the bbox [1, 2, 3] (list), not 4 numbers"),
        ({"bbox": [1, 2, 3, "x"]}, 'has the bbox [1, 2, 3, "x"] (list), not 4 numbers'),
        ({"bbox": [1, 2, 3, 10**400]}, "has the bbox [1, 2, 3, 1000"),
        ({"bbox": None, "segmentation": "x"}, 'has no bbox, and the segmentation "x" (text)'),
        (
            {"bbox": None, "segmentation": [[1, 2, 3]]},
            "has no bbox, and a polygon [1, 2, 3] (list)",
        ),
        (
            {"bbox": None, "segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
            "has no bbox, and a polygon [1, 2, 3, 4",
        ),
        ({"bbox": None, "segmentation": {"size": [0, 4], "counts": "n03"}}, "has no bbox, and the mask"),
        ({"bbox": None, "segmentation": {"size": [3, 4], "counts": [1, 2]}}, "has no bbox, and the mask"),
        ({"bbox": None, "segmentation": {"size": [3, 4], "counts": [-1, 13]}}, "has no bbox, and the mask"),
    ],
)
def test_box__that_cannot_be_read_is_named(folder: Path, row: dict[str, Any], reason: str) -> None:
    (example,) = read(folder, content(annotations=[annotation(7), {**annotation(8), **row}])).examples
    assert len(example.targets) == 1 and len(example.unread) == 1
    assert example.unread[0].startswith(f"annotation 8 {reason}")


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [(["1", "2"], [1, 2]), ([1, 2], ["1", " 2 "]), (["000000000007", "x"], [7, "x"]), ([1.0, 2], ["1", 2])],
)
def test_ids__as_text_or_as_numbers(folder: Path, ids: list[Any], wanted: list[Any]) -> None:
    write_image(folder / "b.jpg")
    rows = [annotation(number, image_id, str(1 + number)) for number, image_id in enumerate(wanted)]
    first, second = read(folder, content([image(ids[0]), image(ids[1], "b.jpg")], rows)).examples
    assert first.targets.labels.tolist() == [0] and second.targets.labels.tolist() == [1]


def test_ids__that_clash_as_text_stay_apart(folder: Path) -> None:
    write_image(folder / "b.jpg")
    images = [image("1"), image(1, "b.jpg")]
    first, second = read(folder, content(images, [annotation(0, 1), annotation(1, 1)])).examples
    assert (len(first.targets), len(second.targets)) == (0, 2)
    assert "annotation 2 has image_id 01" not in message(folder, content(images, [annotation(2, "01")]))


@pytest.mark.parametrize(
    ("categories", "classes", "groups"),
    [
        ([("car", "none"), ("car", "car")], ("car",), ()),
        ([("car", ""), ("car", "car")], ("car",), ()),
        ([("vehicles", "none"), ("car", "vehicles")], ("vehicles", "car"), ("vehicles",)),
        ([("vehicles", None), ("car", "vehicles")], ("vehicles", "car"), ("vehicles",)),
        ([("vehicles", "none"), ("car", "other")], ("vehicles", "car"), ("vehicles",)),
        ([("bus", "none"), ("car", "none")], ("bus", "car"), ()),
        ([("person", "person"), ("car", "vehicle")], ("person", "car"), ()),
    ],
)
def test_categories__that_group_others(
    folder: Path, categories: list[tuple[str, str]], classes: tuple[str, ...], groups: tuple[str, ...]
) -> None:
    rows = [{"id": index, "name": name, "supercategory": its} for index, (name, its) in enumerate(categories)]
    found = read(folder, content(annotations=[annotation(category_id=1)], categories=rows))
    assert found.classes == classes and found.groups == frozenset(groups)
    assert found.examples[0].targets.labels.tolist() == [len(classes) - 1]


def test_images__beside_the_file_come_first(folder: Path) -> None:
    for name in ("train/a.jpg", "valid/a.jpg"):
        write_image(folder / name)
    (folder / "a.jpg").unlink()
    file = folder / "valid" / "_annotations.coco.json"
    file.write_text(json.dumps(content()))
    (example,) = read_coco(file, Folder(folder)).examples
    assert example.path == folder / "valid/a.jpg"


@pytest.mark.parametrize(
    ("others", "found"), [((), True), (("valid/a.jpg",), False), (("C:\\data\\a.jpg",), False)]
)
def test_images__in_another_folder_than_the_file_says(
    folder: Path, others: tuple[str, ...], found: bool
) -> None:
    names = ("train2017/a.jpg", *others)
    images = [
        {"id": number, "file_name": name, "width": 40, "height": 30} for number, name in enumerate(names, 1)
    ]
    path = (folder / "a.jpg").rename(write_image(folder / "jpg/a.jpg"))
    example = read(folder, content(images=images)).examples[0]
    assert (example.path == path) is found
