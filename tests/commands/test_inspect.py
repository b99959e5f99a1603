from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from masked_scenes import write_scenes
from PIL import Image
from tilewise.__main__ import main
from tilewise.data.records import Record, Records
from tilewise.evaluation.tiles import choose_tiles
from tilewise.targets import Targets


@pytest.fixture
def tilewise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tilewise", *map(str, arguments)])
        code = main()
        return code, *capsys.readouterr()

    return call


def channel(folder: Path, count: int, classes: tuple[str, ...] = ("ant", "$b_e$ 蜂")) -> Path:
    """Images of 200 x 100 pixels; number N has N objects of 10 x 10 pixels."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        Image.new("RGB", (200, 100), (number, 99, 0)).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        annotations += [
            {"id": 1, "image_id": number, "category_id": one % len(classes), "bbox": [10 * one, 5, 10, 10]}
            for one in range(number)
        ]
    categories = [{"id": index, "name": name} for index, name in enumerate(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def test_inspect__table_and_picture_of_two_channels(tilewise: Any, tmp_path: Path) -> None:
    folders = channel(tmp_path / "train", 7), channel(tmp_path / "val", 3)
    code, output, errors = tilewise("inspect", *folders, "--out", tmp_path / "out")
    assert code == 0, errors
    rows = {line[:34].strip(): line[34:].split() for line in output.splitlines()}
    assert rows["images"] == ["7", "3"] and rows["also in train"] == ["3"]
    assert rows["√area in px: tiny, 8 to 16"] == ["21", "3"]
    with Image.open(tmp_path / "out" / "inspect.png") as picture:
        width, height = picture.size
        assert width == 2080 and height > 2000
        colours = {colour for _, colour in picture.convert("RGB").getcolors(width * height) or []}
    assert {(0x22, 0xC5, 0x5E), (0x2F, 0x7B, 0xFF)} <= colours  # of the two classes


def test_inspect__without_objects_shows_all_and_complains(tilewise: Any, tmp_path: Path) -> None:
    code, output, errors = tilewise("inspect", channel(tmp_path / "train", 1), "--out", tmp_path / "out")
    assert code == 2 and "channel train: no image has an object to learn" in errors
    assert "exact repetitions" in output and (tmp_path / "out" / "inspect.png").is_file()


def test_inspect__a_seed_that_is_none(tilewise: Any, tmp_path: Path) -> None:
    code, _, errors = tilewise("inspect", channel(tmp_path / "train", 4), "--out", tmp_path, "--seed", "-1")
    assert code == 2 and "--seed -1: give a whole number from 0" in errors


def test_inspect__json_alone_on_standard_output(tilewise: Any, tmp_path: Path) -> None:
    folder = channel(tmp_path / "data", 4)
    code, output, errors = tilewise("inspect", folder, "--out", tmp_path, "--json", "--scale", 50)
    assert code == 0 and "class: ant" in errors
    facts = json.loads(output)
    assert facts["classes"] == ["ant", "$b_e$ 蜂"]
    data = facts["channels"]["data"]
    assert (data["images"], data["images_without_objects"], data["boxes"]) == (4, 1, 6)
    assert data["boxes_by_class"] == {"ant": 4, "$b_e$ 蜂": 2} and data["most_objects_in_an_image"] == 3
    assert data["boxes_by_size"]["very tiny, < 8"] == 6  # 2.5 x 5 pixels of 50 x 50
    assert "images_also_in_data" not in data


def test_inspect__json_names_images_of_other_channels_that_are_in_the_first(
    tilewise: Any, tmp_path: Path
) -> None:
    folders = channel(tmp_path / "train", 3), channel(tmp_path / "val", 2)
    _, output, _ = tilewise("inspect", *folders, "--out", tmp_path, "--json")
    facts = json.loads(output)["channels"]
    assert facts["val"]["images_also_in_train"] == [["0.png", "0.png"], ["1.png", "1.png"]]
    assert "images_also_in_train" not in facts["train"]


def test_inspect__by_bands_and_a_range(
    tilewise: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = channel(tmp_path / "data", 2)
    for number in range(2):
        pixels = np.full((100, 200, 4), 1000, np.uint16)
        path = folder / "images" / f"{number}.png"
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    code, _, errors = tilewise("inspect", folder, "--out", tmp_path)
    assert code == 0, errors
    assert "4 bands of uint16: the first three are read as RGB" in caplog.text
    caplog.clear()
    rendering = ("--bands", "4,3,2", "--pixel-range", "0,4000")
    code, _, errors = tilewise("inspect", folder, "--out", tmp_path, *rendering)
    assert code == 0 and "bands of uint16" not in caplog.text, errors
    with Image.open(tmp_path / "inspect.png") as picture:
        colours = {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 24) or []}
    assert colours[64, 64, 64] > 10_000
    _, _, errors = tilewise("inspect", folder, "--out", tmp_path, "--bands", "5")
    assert "0.png cannot be decoded: bands=5 asks for band 5, but the image has 4" in errors
    code, _, errors = tilewise("inspect", folder, "--pixel-range", "9,1")
    assert code == 2 and "--pixel-range='9,1': must be two numbers, the lower first" in errors


def test_inspect__shows_all_before_it_complains(tilewise: Any, tmp_path: Path) -> None:
    folder = channel(tmp_path / "data", 4)
    (folder / "images" / "1.png").write_bytes(b"no image")
    good = (folder / "images" / "2.png").read_bytes()
    (folder / "images" / "2.png").write_bytes(good[:60])
    code, output, errors = tilewise("inspect", folder, "--out", tmp_path)
    assert code == 2 and (tmp_path / "inspect.png").exists()
    assert "left out, unusable" in output
    assert "2.png cannot be decoded: the image is damaged" in errors
    assert "1 of 4 images cannot be used" in errors and "1.png" in errors


def test_inspect__annotations_for_each_channel(tilewise: Any, tmp_path: Path) -> None:
    folder = channel(tmp_path / "data", 4)
    for name in ("train.json", "val.json"):
        (tmp_path / name).write_bytes((folder / "coco.json").read_bytes())
    arguments = ("inspect", folder, folder, "--out", tmp_path, "--annotations", tmp_path / "train.json")
    code, _, errors = tilewise(*arguments)
    assert code == 2 and "--annotations names 1 places for 2 channels" in errors
    code, output, errors = tilewise(*arguments, tmp_path / "val.json")
    assert code == 0, errors
    assert output.splitlines()[0].split() == ["train", "val"]


def test_inspect__augmented_views(tilewise: Any, tmp_path: Path) -> None:
    folder = channel(tmp_path / "data", 5)
    arguments = ("inspect", folder, "--out", tmp_path, "--augmented")
    code, output, errors = tilewise(*arguments, "model_name=yolox_nano", "image_size=64", "copy_paste=1")
    assert code == 0, errors
    with Image.open(tmp_path / "augmented.png") as picture:
        assert picture.size == (4 * 484, 3 * 484)
    assert f"training views: {tmp_path / 'augmented.png'}" in output
    code, _, errors = tilewise(*arguments, "copy_paste")
    assert code == 2 and "--augmented copy_paste: give hyperparameters as NAME=VALUE" in errors
    code, _, errors = tilewise(*arguments, "copy_past=1")
    assert code == 2 and "did you mean copy_paste" in errors


def test_inspect__augmented_views_have_masks_where_they_are_learnt(tilewise: Any, tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", 5)
    arguments = ("inspect", tmp_path / "data", "--out", tmp_path, "--augmented", "image_size=96")
    options = ("random_windows=0", "copy_paste=1", "copy_paste_max_size=auto")

    def drawn(*chosen: str) -> Any:
        code, _, errors = tilewise(*arguments, *options, *chosen)
        assert code == 0, errors
        with Image.open(tmp_path / "augmented.png") as picture:
            return np.asarray(picture).astype(int)

    with_boxes = drawn("model_name=yolox_nano")
    with_masks = drawn("model_name=maskyolox_nano", "task=instance_segmentation")
    # of a disc that is tinted with its class's colour more pixels differ than of a box of one pixel's width
    assert ((with_boxes - with_masks) != 0).any(axis=2).mean() > 0.02


def test_inspect__objects_with_masks_by_the_name_of_their_task(tilewise: Any, tmp_path: Path) -> None:
    write_scenes(tmp_path / "data", 3)
    code, output, errors = tilewise(
        "inspect", tmp_path / "data", "--out", tmp_path, "--task", "instance_segmentation"
    )
    assert code == 0, errors
    assert "with a mask" in output


def test_choose_tiles__telling_and_never_twice() -> None:
    sizes = [[], [30] * 9, [30] * 8, [30] * 7, [4, 30], [5], [6], *([20] for _ in range(20))]
    rows = [np.asarray([[500, 300, 500 + side, 300 + side] for side in one], np.float32) for one in sizes]
    records = Records(
        Record(
            str(index),
            Path("x"),
            1000,
            600,
            Targets(boxes.reshape(-1, 4), np.zeros(len(boxes), np.int64), np.zeros(len(boxes), np.bool_)),
        )
        for index, boxes in enumerate(rows)
    )
    tiles = choose_tiles(records, 12, seed=0)
    assert [tile.index for tile in tiles[:7]] == [1, 2, 3, 4, 5, 6, 0]
    assert len({tile.index for tile in tiles}) == len(tiles) == 12
    assert tiles == choose_tiles(records, 12, seed=0) != choose_tiles(records, 12, seed=1)
    for tile in tiles[3:6]:
        x0, y0, x1, y1 = tile.window
        assert x0 <= 500 and 506 <= x1 and y0 <= 300 and 306 <= y1 and x1 - x0 < 70
    assert tiles[0].window == (0, 0, 1000, 600)
