from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from tilewise.data.decoding.decode import DecodeError, read_header
from tilewise.data.files.folder import Folder


def write_image(path: Path) -> Path:
    """A file named like an image; nobody here looks into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    names = ["top.jpg", "images/in.png", "images/deep/er.JPG", "a/twin.jpg", "b/twin.jpg", "a/alone.jpg"]
    for name in [*names, "mit Raum/größe 木.jpeg", "a/sketch.jpg", "a/sketch.png"]:
        write_image(tmp_path / "channel" / name)
    write_image(tmp_path / "outside.jpg")
    return Folder(tmp_path / "channel")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("top.jpg", "top.jpg"),
        ("in.png", "images/in.png"),
        ("images/in.png", "images/in.png"),
        ("deep/er.JPG", "images/deep/er.JPG"),
        ("er.JPG", "images/deep/er.JPG"),
        ("alone.jpg", "a/alone.jpg"),
        ("train2017/top.jpg", "top.jpg"),
        ("/home/me/data/in.png", "images/in.png"),
        ("data/a/alone.jpg", "a/alone.jpg"),
        ("a/twin.jpg", "a/twin.jpg"),
        ("mit Raum/größe 木.jpeg", "mit Raum/größe 木.jpeg"),
        ("größe 木.jpeg", "mit Raum/größe 木.jpeg"),
        ("twin.jpg", None),
        ("c/alone.jpg", None),
        ("alone.png", None),
        ("lone.jpg", None),
        ("outside.jpg", None),
        ("../outside.jpg", None),
        ("a/../../outside.jpg", None),
        ("../channel/top.jpg", "top.jpg"),
        ("a", None),
        ("", None),
        ("/", None),
        ("\0", None),
        ("x" * 5000, None),
        ("images\\in.png", "images/in.png"),
        ("C:\\Users\\me\\deep\\er.JPG", "images/deep/er.JPG"),
        ("c/top.jpg?sv=2024&sig=x%3D", "top.jpg"),
        ("mit%20Raum/gr%C3%B6%C3%9Fe%20%E6%9C%A8.jpeg", "mit Raum/größe 木.jpeg"),
        ("mit+Raum/größe+木.jpeg", "mit Raum/größe 木.jpeg"),
        ("IMAGES/In.PNG", "images/in.png"),
        ("a\\..\\..\\outside.jpg", None),
        ("%2e%2e/outside.jpg", None),
    ],
)
def test_find__by_name(folder: Folder, name: str, found: str | None) -> None:
    assert folder.find_image(name) == found
    if found:
        assert folder.images[found].is_file()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("top.json", "top.jpg"),
        ("in.json", "images/in.png"),
        ("er.json", "images/deep/er.JPG"),
        ("deep/er.json", "images/deep/er.JPG"),
        ("annotations/in.json", "images/in.png"),
        ("b/twin.json", "b/twin.jpg"),
        ("mit Raum/größe 木.json", "mit Raum/größe 木.jpeg"),
        ("twin.json", None),
        ("a/sketch.json", None),
        ("b/alone.json", None),
        ("nothing.json", None),
    ],
)
def test_find_like__by_stem(folder: Folder, name: str, found: str | None) -> None:
    assert folder.find_image_like(name) == found


def test_find__either_form_of_unicode(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "größe.jpg")
    decomposed = unicodedata.normalize("NFD", "größe.jpg")
    for on_disk in (composed, decomposed):
        file = write_image(tmp_path / on_disk)
        folder = Folder(tmp_path)
        for name in (composed, decomposed):
            assert folder.images[folder.find_image(name) or ""] == file
        file.unlink()


def test_folder__passes_over_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name in ("._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "b/.hidden/a.jpg", "b/a.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    assert list(Folder(tmp_path).images) == ["b/a.jpg"]


def test_folder__follows_links_but_not_in_a_circle(tmp_path: Path) -> None:
    image = write_image(tmp_path / "elsewhere" / "deep" / "a.jpg")
    root = tmp_path / "root"
    write_image(root / "own" / "b.jpg")
    for link, target in {
        root / "images": tmp_path / "elsewhere",
        root / "own" / "again": root,
        root / "above": tmp_path,
        tmp_path / "elsewhere" / "back": root / "own",
        root / "own" / "there": tmp_path / "elsewhere",
        root / "lost": tmp_path / "nowhere",
    }.items():
        link.symlink_to(target, target_is_directory=True)
    images = Folder(root).images
    assert list(images) == [
        "images/back/b.jpg",
        "images/deep/a.jpg",
        "own/b.jpg",
        "own/there/deep/a.jpg",
    ]
    assert images["images/deep/a.jpg"].samefile(image)


def test_folder__name_that_is_not_utf_8(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg").rename(tmp_path / os.fsdecode(b"caf\xe9.jpg"))
    (path,) = Folder(tmp_path).images.values()
    assert path == tmp_path / os.fsdecode(b"caf\xe9.jpg")
    assert path.is_file()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF"])
def test_images__whatever_they_are_called(tmp_path: Path, format: str) -> None:
    for name in ("000", "001.v2", "002.DAT"):
        Image.new("RGB", (40, 30)).save(tmp_path / name, format)
    for name in ("notes", "b.v2", "BMW cars", "P6 list"):
        (tmp_path / name).write_text(f"{name}: 1, 2, 3 and many more words that are no image")
    folder = Folder(tmp_path)
    assert list(folder.images) == ["000", "001.v2", "002.DAT"]
    assert sorted(folder.unnamed) == ["BMW cars", "P6 list", "b.v2", "notes"]
    assert folder.find_image_like("labels/001.v2.txt") == "001.v2" and folder.find_image("x/000") == "000"


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc"])
def test_heic__is_named_with_the_way_to_convert_it(tmp_path: Path, brand: bytes) -> None:
    (tmp_path / "a").write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(40))
    assert list(Folder(tmp_path).images) == ["a"]
    with pytest.raises(DecodeError, match="it is a HEIC image, which is not supported: convert it to JPEG"):
        read_header((tmp_path / "a").read_bytes())


def test_ask__puts_a_question_to_a_file_once(folder: Folder) -> None:
    asked: list[Path] = []

    def size(path: Path) -> int:
        asked.append(path)
        return path.stat().st_size

    for _ in range(2):
        assert [folder.ask(size, path) for path in folder.files.values()] == [0] * len(folder.files)
    assert asked == list(folder.files.values())
    assert folder.ask(str, asked[0]) == str(asked[0])  # another question has its own answer


def test_largest__by_their_sizes(folder: Folder) -> None:
    for number, path in enumerate(folder.images.values()):
        path.write_bytes(bytes(100 - number))
    first, second, *_ = folder.images
    assert list(folder.largest(folder.images, 2)) == [second, first]
