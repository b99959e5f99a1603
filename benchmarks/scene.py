"""A scene larger than memory: trained on, predicted, and read by windows beside rasterio and supervision.

python benchmarks/scene.py [--side 100000] [--tile 2048] [--windows-side 16384] [train predict windows]

The scene is a BigTIFF of side x side pixels in deflated tiles of 512 px, all of which are one of three that
lie in the file: ground of two kinds, and ground with an object. So it is small on disk, and everything else
is as with a large file. ``train`` and ``predict`` are the programs that a job runs, in processes of their
own, whose memory (with that of their children, shared pages counted once) is looked at five times a second.
``windows`` reads overlapping windows of a smaller scene, cut and converted to RGB, and needs rasterio and
supervision beside Tilewise. Prints JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "container"))
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "container")}

FILE_TILE = 512
OBJECT = (200, 180, 90, 70)
"""Left, top, width and height of the object in its tile of the file."""

SETTINGS = {
    "model_name": "yolox_nano",
    "image_size": "256",
    "number_of_epochs": "1",
    "training_batch_size": "8",
    "box_score_threshold": "0.05",
    "use_pretrained_model": "0",
    "validation_metric_type": "none",
}


def tiles_of_file() -> list[bytes]:
    """The three tiles, encoded."""
    noise = np.random.default_rng(0)
    blocks = np.ones((16, 16, 1), np.uint8)  # else a tile would take longer to inflate than photographs do
    size = (FILE_TILE // 16, FILE_TILE // 16, 3)
    pixels = [np.kron(noise.integers(low, low + 40, size, dtype=np.uint8), blocks) for low in (60, 90, 60)]
    x, y, width, height = OBJECT
    pixels[2][y : y + height, x : x + width] = (230, 60, 40)
    return [zlib.compress(one.tobytes(), 1) for one in pixels]


def write_scene(path: Path, side: int, objects: int) -> list[tuple[int, int]]:
    """Write a scene; returns the left and the top of its objects."""
    count = -(-side // FILE_TILE)
    contents = tiles_of_file()
    starts = 16 + np.cumsum([0, *map(len, contents)])
    kinds = np.add.outer(np.arange(count), np.arange(count)) % 2
    whole = side // FILE_TILE  # tiles that the border does not cut
    places = np.random.default_rng(1).choice(whole * whole, objects, replace=False)
    kinds[places // whole, places % whole] = 2
    numbers = kinds.ravel()
    lengths = np.asarray([len(content) for content in contents])
    end = int(starts[-1])
    tags = [
        (256, 4, 1, side),  # width
        (257, 4, 1, side),
        (258, 3, 3, 8 | 8 << 16 | 8 << 32),
        (259, 3, 1, 8),  # deflate
        (262, 3, 1, 2),  # RGB
        (277, 3, 1, 3),
        (284, 3, 1, 1),
        (322, 4, 1, FILE_TILE),
        (323, 4, 1, FILE_TILE),
        (324, 16, len(numbers), end),  # offsets
        (325, 16, len(numbers), end + 8 * len(numbers)),
    ]
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, end + 16 * len(numbers)))
        file.write(b"".join(contents))
        file.write(starts[numbers].astype("<u8").tobytes())
        file.write(lengths[numbers].astype("<u8").tobytes())
        file.write(struct.pack("<Q", len(tags)))
        for tag in tags:
            file.write(struct.pack("<HHQQ", *tag))
        file.write(struct.pack("<Q", 0))
    lefts, tops = places % whole * FILE_TILE + OBJECT[0], places // whole * FILE_TILE + OBJECT[1]
    return list(zip(lefts.tolist(), tops.tolist(), strict=True))


def write_coco(path: Path, image: str, side: int, places: list[tuple[int, int]]) -> None:
    """The scene's annotations."""
    boxes = [[left, top, *OBJECT[2:]] for left, top in places]
    content = {
        "images": [{"id": 1, "file_name": image, "width": side, "height": side}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": box} for number, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path.write_text(json.dumps(content))


def processes_below(parent: int) -> Iterator[int]:
    """A process and those that it started, and so on."""
    yield parent
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from processes_below(int(child))


def memory_of(parent: int) -> float:
    """Bytes of all processes together."""
    total = 0.0
    for process in processes_below(parent):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a program to its end: seconds and peak memory."""
    start = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak, ended = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.2):
            try:
                peak = max(peak, memory_of(process.pid))
            except OSError:  # one of them has just ended
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(output)
    return {"seconds": round(time.monotonic() - start, 1), "GB_peak": round(peak / 1e9, 2), "output": output}


def train(folder: Path, scene: Path, side: int, tile: int, places: list[tuple[int, int]]) -> dict[str, Any]:
    """A training job on the scene."""
    channel, config = folder / "input/data/train", folder / "input/config"
    for one in (channel, config, folder / "model", folder / "output/data"):
        one.mkdir(parents=True)
    (channel / scene.name).symlink_to(scene)
    write_coco(channel / "coco.json", scene.name, side, places)
    facts = {"train": {"TrainingInputMode": "File", "ContentType": "image/tiff"}}
    hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    for name, content in (
        ("hyperparameters", SETTINGS | {"tile_size": str(tile)}),
        ("inputdataconfig", facts),
        ("resourceconfig", hosts),
    ):
        (config / f"{name}.json").write_text(json.dumps(content))
    found = run([sys.executable, str(ROOT / "train")], ENVIRONMENT | {"SAGEMAKER_BASE_DIR": str(folder)})
    output = found.pop("output")
    epochs = json.loads((folder / "output/data/metrics.json").read_text())["epochs"]
    views = re.findall(r"(\d[\d,]*) views", output)
    return {"objects": len(places), "views": views[:1], "losses": epochs[-1]["losses"], **found}


def predict(model: Path, scene: Path, out: Path, tile: int) -> dict[str, Any]:
    """``tilewise predict`` on the scene."""
    options = [
        "--model",
        str(model),
        "--tile-size",
        str(tile),
        "--out",
        str(out),
        "--max-detections",
        "1000000",
    ]
    found = run([sys.executable, "-m", "tilewise", "predict", str(scene), *options], ENVIRONMENT)
    del found["output"]
    answer = json.loads((out / f"{scene.stem}-detections.json").read_text())
    return {"detections": len(answer["boxes"]), **found}


def windows_of(side: int, tile: int) -> list[tuple[int, int, int, int]]:
    """Windows that share a quarter, row by row."""
    starts = [*range(0, side - tile, tile * 3 // 4), side - tile]
    return [(x, y, x + tile, y + tile) for y in starts for x in starts]


def by_tilewise(path: Path, side: int, tile: int) -> int:
    """Sum of some pixels of all windows, as the predictor cuts them."""
    from tilewise.data.decoding.decode import decode_reduced
    from tilewise.views.view import View

    image, total = decode_reduced(path, lambda *_: 1), 0
    for window in windows_of(side, tile):
        total += int(image.show(View(window, (tile, tile)))[7, ::64, 0].sum())
    return total


def by_rasterio(path: Path, side: int, tile: int) -> int:
    """The same with rasterio's windows."""
    rasterio = importlib.import_module("rasterio")
    total = 0
    with rasterio.open(path) as image:
        for x0, y0, _, _ in windows_of(side, tile):
            bands = image.read(window=((y0, y0 + tile), (x0, x0 + tile)))
            pixels = np.ascontiguousarray(bands.transpose(1, 2, 0))
            total += int(pixels[7, ::64, 0].sum())
    return total


def by_supervision(path: Path, side: int, tile: int) -> int:
    """The same with supervision's slicer on rasterio's file."""
    rasterio, supervision = map(importlib.import_module, ("rasterio", "supervision"))
    total = 0

    def look(pixels: Any) -> Any:
        nonlocal total
        total += int(pixels[7, ::64, 0].sum())
        return supervision.Detections.empty()

    overlap = (tile // 4, tile // 4)
    slicer = supervision.InferenceSlicer(look, slice_wh=(tile, tile), overlap_wh=overlap, thread_workers=1)
    with rasterio.open(path) as image:
        slicer(image)
    return total


READERS: dict[str, Callable[[Path, int, int], int]] = {
    "Tilewise": by_tilewise,
    "rasterio": by_rasterio,
    "supervision": by_supervision,
}


def windows(path: Path, side: int, tile: int, rounds: int) -> dict[str, Any]:
    """CPU seconds that each needs to read all windows once, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in READERS}
    for _ in range(rounds):
        for name, read in READERS.items():
            start = time.process_time()
            read(path, side, tile)
            seconds[name].append(round(time.process_time() - start, 2))
    pixels = len(windows_of(side, tile)) * tile * tile
    best = {name: min(times) for name, times in seconds.items()}
    return {
        "side": side,
        "windows": len(windows_of(side, tile)),
        "CPU seconds": seconds,
        "Mpx a CPU second": {name: round(pixels / 1e6 / time_) for name, time_ in best.items()},
    }


def main() -> None:
    """Do what is asked for, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", default=["train", "predict", "windows"])
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--objects", type=int, default=60)
    parser.add_argument("--windows-side", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps scene, job and answers; else they go in the end")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        scene = folder / f"scene_{arguments.side}.tif"
        places = write_scene(scene, arguments.side, arguments.objects)
        figures: dict[str, Any] = {"side": arguments.side, "tile": arguments.tile}
        figures["file_MB"] = round(scene.stat().st_size / 1e6, 1)
        if "train" in arguments.what:
            figures["train"] = train(folder / "ml", scene, arguments.side, arguments.tile, places)
        if "predict" in arguments.what:
            figures["predict"] = predict(folder / "ml/model", scene, folder / "found", arguments.tile)
        if "windows" in arguments.what:
            smaller = folder / f"scene_{arguments.windows_side}.tif"
            write_scene(smaller, arguments.windows_side, arguments.objects)
            found = windows(smaller, arguments.windows_side, arguments.tile, arguments.rounds)
            figures["windows"] = found
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
