from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tilewise.data.annotations import ParsedChannel, RawExample
from tilewise.data.files.folder import Folder
from tilewise.data.formats.image_json import read_image_json
from tilewise.errors import UserError


class Folders:
    """An image channel and its annotation channel."""

    def __init__(self, root: Path) -> None:
        self.images, self.annotations = root / "train", root / "train_annotation"
        self.images.mkdir()
        self.annotations.mkdir()

    def image(self, name: str) -> Path:
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
        return path

    def json(self, name: str, content: Any) -> None:
        path = self.annotations / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    def read(self) -> ParsedChannel:
        return read_image_json(Folder(self.images), Folder(self.annotations).with_suffix(".json"))

    def only(self) -> RawExample:
        (example,) = self.read().examples
        return example


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def annotation(class_id: Any = 0, box: tuple[Any, ...] = (1, 2, 10, 20)) -> dict[str, Any]:
    return {"class_id": class_id, **dict(zip(("left", "top", "width", "height"), box, strict=True))}


def content(file: str | None = None, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    named = {} if file is None else {"file": file}
    return {**named, "annotations": list(annotations), **more}


def test_read__as_the_developer_guide_has_it(folders: Folders) -> None:
    path = folders.image("your_image_directory/sample_image1.jpg")
    folders.json(
        "sample_image1.json",
        {
            "file": "your_image_directory/sample_image1.jpg",
            "image_size": [{"width": 500, "height": 400, "depth": 3}],
            "annotations": [
                {"class_id": 0, "left": 111, "top": 134, "width": 61, "height": 128},
                {"class_id": 0, "left": 161, "top": 250, "width": 79, "height": 143},
                {"class_id": 1, "left": 101, "top": 185, "width": 42, "height": 130},
            ],
            "categories": [{"class_id": 0, "name": "dog"}, {"class_id": 1, "name": "cat"}],
        },
    )
    found = folders.read()
    (example,) = found.examples
    assert (example.key, example.path, example.size) == ("sample_image1.json", path, (500, 400))
    assert example.targets.boxes.tolist() == [
        [111, 134, 172, 262],
        [161, 250, 240, 393],
        [101, 185, 143, 315],
    ]
    assert example.targets.labels.tolist() == [0, 0, 1]
    assert example.targets.ignored.tolist() == [False] * 3 and example.problem == ""
    assert found.names == {0: "dog", 1: "cat"}


@pytest.mark.parametrize(
    ("image", "name", "file"),
    [
        ("a.jpg", "a.json", "a.jpg"),
        ("a.jpg", "other.json", "a.jpg"),
        ("a.jpg", "a.json", None),
        ("a.jpg", "a.json", ""),
        ("deep/er/a.jpg", "a.json", "a.jpg"),
        ("deep/er/a.jpg", "deep/er/a.json", "a.jpg"),
        ("deep/er/a.jpg", "a.json", None),
        ("deep/er/a.jpg", "deep/er/a.json", None),
        ("a.jpg", "a.json", "train/a.jpg"),
        ("A.JPG", "A.json", None),
        ("a.png", "a.JSON", "a.png"),
        ("mit Raum/größe 木.jpg", "mit Raum/größe 木.json", None),
        ("mit Raum/größe 木.jpg", "x.json", "größe 木.jpg"),
        ("v1.2.jpg", "v1.2.json", None),
    ],
)
def test_image__found(folders: Folders, image: str, name: str, file: str | None) -> None:
    path = folders.image(image)
    folders.json(name, content(file))
    example = folders.only()
    assert (example.key, example.path, example.problem) == (name, path, "")


def test_image__bare_file_names_in_two_folders(folders: Folders) -> None:
    paths = [folders.image(f"{folder}/a.jpg") for folder in "xy"]
    for folder in "xy":
        folders.json(f"{folder}/a.json", content("a.jpg"))
    assert [example.path for example in folders.read().examples] == paths


def test_image__mixed_suffixes(folders: Folders) -> None:
    names = ["a.JPG", "b.png", "c.jpeg", "d.PNG"]
    for name in names:
        folders.image(name)
        folders.json(f"{name[0]}.json", content(name))
    assert [example.path for example in folders.read().examples] == [folders.images / name for name in names]


@pytest.mark.parametrize("file", ["b.jpg", "../secret.jpg", "/etc/a.png", "x/../../secret.jpg"])
def test_image__not_in_the_channel(folders: Folders, file: str) -> None:
    folders.image("../secret.jpg")
    folders.json("a.json", content(file, annotation()))
    example = folders.only()
    assert (example.key, example.path) == ("a.json", None)
    assert example.problem == f"its image {file} is not in the image channel, or not only once"


def test_image__no_file_key_and_no_image(folders: Folders) -> None:
    folders.json("x/a.json", content())
    assert folders.only().problem.startswith("its image a.* is not in the image channel")


def test_image__without_json(folders: Folders) -> None:
    folders.image("a.jpg")
    folders.json("a.json", content("a.jpg"))
    folders.image("b/b.jpg")
    _, example = folders.read().examples
    assert example.key == "b/b.jpg"
    assert example.problem.startswith("no JSON file annotates it; an image without objects needs one")


def test_image__with_two_json_files(folders: Folders) -> None:
    folders.image("a.jpg")
    folders.json("a.json", content("a.jpg"))
    folders.json("copy/a.json", content("a.jpg"))
    with pytest.raises(UserError, match=r"a\.json and copy/a\.json annotate the same image a\.jpg: keep one"):
        folders.read()


def test_objects__none(folders: Folders) -> None:
    folders.image("a.jpg")
    folders.json("a.json", content("a.jpg"))
    example = folders.only()
    assert (
        example.problem == ""
        and example.targets.boxes.shape == (0, 4)
        and example.targets.labels.shape == (0,)
    )


@pytest.mark.parametrize("class_id", [2, "2", 2.0])
def test_objects__class_id(folders: Folders, class_id: Any) -> None:
    folders.image("a.jpg")
    folders.json("a.json", content("a.jpg", annotation(class_id)))
    assert folders.only().targets.labels.tolist() == [2]


def test_objects__one_without_a_coordinate_is_dropped(folders: Folders) -> None:
    folders.image("a.jpg")
    folders.json("a.json", content("a.jpg", annotation(0, (None, 2, 10, 20)), annotation(1)))
    example = folders.only()
    assert (example.problem, example.targets.labels.tolist()) == ("", [1])
    assert example.unread == ("annotations[0]: its left is null, not a number",)


def test_objects__fractions_and_strings(folders: Folders) -> None:
    folders.image("a.jpg")
    folders.json(
        "a.json", content("a.jpg", annotation(0, (0.5, 1.25, 2, 3)), annotation(0, ("1", "2", "3", "4")))
    )
    assert folders.only().targets.boxes.tolist() == [[0.5, 1.25, 2.5, 4.25], [1, 2, 4, 6]]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (b"", "not valid JSON: Expecting value"),
        (b'{"file": "a.jpg", ', "not valid JSON: "),
        (b'{"file": "\xe9.jpg"}', "not valid JSON: 'utf-8' codec"),
        (b"[" * 100_000, "not valid JSON: maximum recursion"),
        (b"[]", "not an annotation file of the built-in's form: it must hold one JSON object"),
        (b"3", "not an annotation file of the built-in's form: it must hold one JSON object"),
        ({"file": "a.jpg"}, "form: the key 'annotations' is missing"),
        (content("a.jpg", {"left": 1}), "form: annotations[0]: the key 'class_id' is missing"),
        (
            content("a.jpg", {**annotation(), "class_id": "dog"}),
            'form: annotations[0]: class_id "dog" (text) is not 0, 1, 2, …',
        ),
        (content("a.jpg", annotation(-1)), "form: annotations[0]: class_id -1 (number) is not 0, 1, 2, …"),
        (content("a.jpg", annotation(1.5)), "form: annotations[0]: class_id 1.5 (number) is not 0, 1, 2, …"),
        (content("a.jpg", annotation(None)), "form: annotations[0]: class_id null is not 0, 1, 2, …"),
        (
            content("a.jpg", annotation(0, ("a", 1, 1, 1))),
            'form: annotations[0]: its left is "a" (text), not a number',
        ),
        (content("a.jpg", image_size=[{"width": 3}]), 'form: image_size is [{"width": 3}] (list), without'),
        (content("a.jpg", image_size=["3x4"]), 'form: image_size is ["3x4"] (list), without'),
        ({"file": "a.jpg", "annotations": None}, "form: annotations is null, not a list"),
        (
            {"file": "a.jpg", "annotations": [3]},
            "annotations[0]: it is 3 (number), not an object with class_id",
        ),
    ],
)
def test_json__broken_is_counted_once(folders: Folders, broken: Any, problem: str) -> None:
    folders.image("a.jpg")
    folders.json("a.json", broken)
    example = folders.only()  # not a second one for the image
    assert example.key == "a.json" and problem in example.problem
    assert len(example.targets.boxes) == 0


def test_json__broken_beside_a_good_one(folders: Folders) -> None:
    path = folders.image("a.jpg")
    folders.json("a.json", b"{")
    folders.json("b.json", content("a.jpg", annotation()))
    broken, good = folders.read().examples
    assert broken.problem and not good.problem and good.path == path


def test_json__with_byte_order_mark(folders: Folders) -> None:
    folders.image("a.jpg")
    folders.json("a.json", b"\xef\xbb\xbf" + json.dumps(content("a.jpg")).encode())
    assert folders.only().problem == ""


def test_json__size_may_be_left_out(folders: Folders) -> None:
    folders.image("a.jpg")
    sizes: list[Any] = [{}, [], None]
    for size in sizes:
        folders.json("a.json", content("a.jpg", image_size=size))
        assert folders.only().size is None
    folders.json("a.json", content("a.jpg", image_size={"width": 40, "height": 30}))
    assert folders.only().size == (40, 30)


def test_json__hidden_copies_are_passed_over(folders: Folders) -> None:
    folders.image("a.jpg")
    folders.image("._a.jpg")
    for name in ("a.json", ".ipynb_checkpoints/a-checkpoint.json", "._a.json"):
        folders.json(name, content("a.jpg"))
    assert folders.only().key == "a.json"


def test_categories__where_files_disagree(folders: Folders) -> None:
    for name, categories in (("a", {0: "ant", 1: "bee"}), ("b", {0: "ant", 1: "wasp", 2: "cat"})):
        folders.image(f"{name}.jpg")
        listed = [{"class_id": number, "name": title} for number, title in categories.items()]
        folders.json(f"{name}.json", content(f"{name}.jpg", annotation(1), categories=listed))
    assert folders.read().names == {0: "ant", 2: "cat"}


def test_categories__wrong_ids_name_nothing(folders: Folders) -> None:
    """COCO's own ids in the categories, ids from 0 at the objects: as a widespread notebook writes them."""
    for name, number, raw, title in (("a", 0, 1, "person"), ("b", 1, 2, "bicycle"), ("c", 79, 90, "brush")):
        folders.image(f"{name}.jpg")
        categories = [{"class_id": raw, "name": title}]
        folders.json(f"{name}.json", content(f"{name}.jpg", annotation(number), categories=categories))
    found = folders.read()
    assert [example.targets.labels.tolist() for example in found.examples] == [[0], [1], [79]]
    assert found.names == {}


@pytest.mark.parametrize(
    "categories", [[{"id": 0, "name": "x"}], [3], 3, [{"class_id": "x", "name": "y"}], None]
)
def test_categories__of_another_form_are_no_problem(folders: Folders, categories: Any) -> None:
    folders.image("a.jpg")
    folders.json("a.json", content("a.jpg", annotation(), categories=categories))
    found = folders.read()
    assert found.examples[0].problem == "" and found.names == {}


def test_read__thousands_of_files_in_time(folders: Folders) -> None:
    """The search for images by base name must not grow with the square of their number."""
    count = 3000
    data = folders.image("a.jpg").read_bytes()
    for number in range(count):
        (folders.images / f"{number}.jpg").write_bytes(data)
        (folders.annotations / f"{number}.json").write_text('{"annotations": []}')
    (folders.images / "a.jpg").unlink()
    start = time.process_time()
    found = folders.read()
    assert time.process_time() - start < 2
    assert len(found.examples) == count and not any(example.problem for example in found.examples)
