import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

LOCAL_TEST = Path(__file__).resolve().parents[1] / "local_test"
sys.path.insert(0, str(LOCAL_TEST))

import make_demo_data as demo  # noqa: E402
from scenery import Pose, Scene  # noqa: E402

WIDTH, HEIGHT = 320, 256
FLAT = (120, 0, 120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo")
    demo.make_demo_data(path, train=3, val=1, seed=4, width=WIDTH, height=HEIGHT)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def vehicle(category: int, x: float, y: float, heading: float, length: float = 30.0) -> demo.Vehicle:
    return demo.Vehicle(category, Pose(x, y, heading), length, length * 0.42, (220, 220, 220))


def changed_bounds(shown: demo.Vehicle, side: int) -> list[float]:
    image = Image.new("RGB", (side, side), FLAT)
    demo.draw_vehicle(image, shown)
    changed = np.abs(np.asarray(image, np.int16) - FLAT).max(axis=2) > 25
    rows, columns = np.nonzero(changed.any(axis=1))[0], np.nonzero(changed.any(axis=0))[0]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_files__same_for_same_seed(folder: Path, tmp_path: Path) -> None:
    demo.make_demo_data(tmp_path, train=3, val=1, seed=4, width=WIDTH, height=HEIGHT)
    assert contents(tmp_path) == contents(folder)


def test_files__same_with_more_processes(folder: Path, tmp_path: Path) -> None:
    demo.make_demo_data(tmp_path, train=3, val=1, seed=4, width=WIDTH, height=HEIGHT, processes=2)
    assert contents(tmp_path) == contents(folder)


def test_files__other_for_other_seed(folder: Path, tmp_path: Path) -> None:
    demo.make_demo_data(tmp_path, train=1, val=0, seed=5, width=WIDTH, height=HEIGHT)
    name = "images/train_0000.jpg"
    assert contents(tmp_path)[name] != contents(folder)[name]


def test_files__train_and_val_differ(folder: Path) -> None:
    files = contents(folder)
    assert files["images/train_0000.jpg"] != files["images/val_0000.jpg"]


def test_images__jpeg_of_stated_size(folder: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        rows = json.loads((folder / f"{split}.json").read_text())["images"]
        assert len(rows) == count
        for row in rows:
            with Image.open(folder / "images" / row["file_name"]) as image:
                image.load()
                assert (image.format, image.mode) == ("JPEG", "RGB")
                assert image.size == (row["width"], row["height"]) == (WIDTH, HEIGHT)


def test_annotations__load_as_coco(folder: Path) -> None:
    coco = COCO(str(folder / "train.json"))
    assert [(row["id"], row["name"]) for row in coco.loadCats(coco.getCatIds())] == [
        (1, "car"),
        (2, "truck"),
        (3, "van"),
    ]
    assert coco.getImgIds() == [1, 2, 3]
    rows = coco.loadAnns(coco.getAnnIds())
    assert rows and [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["category_id"] in (1, 2, 3) and row["iscrowd"] == 0 for row in rows)


def test_annotations__boxes_inside_image(folder: Path) -> None:
    for split in ("train", "val"):
        for row in json.loads((folder / f"{split}.json").read_text())["annotations"]:
            x, y, width, height = row["bbox"]
            assert x >= 0 and y >= 0 and width > 1 and height > 1
            assert x + width <= WIDTH + 1e-6 and y + height <= HEIGHT + 1e-6
            assert row["area"] == pytest.approx(width * height, abs=0.01)


@pytest.mark.parametrize("category", sorted(demo.NAMES))
@pytest.mark.parametrize("heading", [0.0, 0.4, math.pi / 4, 2.0, 4.0])
def test_vehicle_box__tight_on_flat_ground(category: int, heading: float) -> None:
    shown = vehicle(category, 40.3, 39.6, heading)
    box = demo.vehicle_box(shown, 80, 80)
    assert box is not None
    x, y, width, height = box
    assert changed_bounds(shown, 80) == pytest.approx([x, y, x + width, y + height], abs=1.3)


def test_vehicle_box__tight_where_border_cuts_a_turned_vehicle() -> None:
    shown = vehicle(demo.TRUCK, 3.0, 40.0, math.pi / 4, length=40)
    box = demo.vehicle_box(shown, 80, 80)
    assert box is not None
    x, y, width, height = box
    assert x == 0
    assert height < np.ptp(shown.outline()[:, 1]) - 3  # less than the bound of the whole vehicle
    assert changed_bounds(shown, 80) == pytest.approx([x, y, x + width, y + height], abs=1.3)


@pytest.mark.parametrize(("x", "shown"), [(-20.0, False), (-4.0, False), (-1.0, True), (4.0, True)])
def test_vehicle_box__none_if_too_little_is_visible(x: float, shown: bool) -> None:
    assert (demo.vehicle_box(vehicle(demo.VAN, x, 40, 0.0), 80, 80) is not None) == shown


def test_park__some_scenes_stay_empty_and_others_do_not() -> None:
    counts = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        counts.append(len(demo.park(rng, Scene(rng, 256, 192))))
    assert 1 <= counts.count(0) <= 15
    assert max(counts) <= 60


def test_park__five_to_sixty_vehicles_of_stated_length_apart_and_in_sight() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        scene = Scene(rng, 1280, 960)
        vehicles = demo.park(rng, scene)
        assert not vehicles or 5 <= len(vehicles) <= 60
        for one in vehicles:
            assert 14 <= one.length <= 45
            assert scene.clear(one.outline())
            nearest = min(math.dist(_centre(one), _centre(v)) for v in vehicles if v is not one)
            assert nearest > one.width


def _centre(shown: demo.Vehicle) -> tuple[float, float]:
    return shown.pose.x, shown.pose.y


def test_make_demo_data__negative_count() -> None:
    with pytest.raises(ValueError, match="-1"):
        demo.make_demo_data(Path("unused"), train=-1)


def test_main__no_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([str(tmp_path / "new"), "--train", "0", "--val", "0"]) == 0
    assert json.loads((tmp_path / "new" / "val.json").read_text())["images"] == []
    assert "0 photographs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "-1"], "argument --train: must be from 0"),
        (["--val", "-3"], "argument --val: must be from 0"),
        (["--seed", "-3"], "argument --seed: must be from 0"),
        (["--width", "5"], "argument --width: must be from 128"),
        (["--height", "tall"], "argument --height: invalid whole number"),
    ],
)
def test_main__refused_argument(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo.main([str(tmp_path), *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_main__folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        demo.main([str(tmp_path / "file" / "data"), "--train", "1", "--val", "0"])
    assert stopped.value.code == 2
    assert f"cannot write to {tmp_path / 'file' / 'data'}" in capsys.readouterr().err


def test_script__runs_from_any_folder(tmp_path: Path) -> None:
    script = [sys.executable, str(LOCAL_TEST / "make_demo_data.py"), "data"]
    small = ["--train", "1", "--val", "1", "--width", "160", "--height", "128"]
    subprocess.run([*script, *small], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["images", "train.json", "val.json"]
