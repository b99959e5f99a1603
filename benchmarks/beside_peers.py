"""The demo's job beside the peers that people use, after equal minutes of one core, all from scratch.

python benchmarks/beside_peers.py DATA --runs runs.jsonl [--ultralytics PYTHON] [--minutes 17] [--seeds 0]
    [--sets bccd bccd_160x120 …] [--sides yolox_tiny/auto yolo11n/slices …] [--core 0] [--stop-after MINUTES]
python benchmarks/beside_peers.py --table runs.jsonl

DATA holds a folder for each set, with train.json, val.json (COCO) and images/; `bccd_160x120` is made of
bccd's images, reduced. Each run has a line of JSON, written as it ends; a run whose line is there is not run
again, so that the same command goes on where one stopped, and two of them with other sets or sides share one
file. The sides:

- `yolox_tiny/auto`, `/fixed`, `/whole`, and `yolox_nano/…`: the demo's job, planned by `minutes`, with this
  way of looking at images. Its minutes hold start, validations and report. `/stride_4`, `/no_windows`: `auto`
  with another hyperparameter.
- `yolo11n/whole`, `yolov8n/whole`: ultralytics at 640 px; `/slices`: trained on slices of 320 px that overlap
  by a fifth (a box stays with those that show 40 % of it; a third as many empty ones), and predicted on
  slices and the whole image, with suppression over all of them. PYTHON has the package; see
  `ultralytics_peer.py`.
- `fasterrcnn_mobilenet_v3_large_fpn`, `fasterrcnn_resnet50_fpn`, `ssdlite320_mobilenet_v3_large`:
  torchvision's reference training as `reference_loop.py` has it, but with AdamW and a cosine in place of
  steps of SGD, which in so short a time learns less; Faster R-CNN at 640 px.

Each run has one core, the same for all, and one thread. All minutes are those of the CPU, so that other work
on the machine costs no side its epochs; ultralytics' and torchvision's are those of training. Detections of
all sides are compared with the boxes of the original images by the evaluation of `tilewise evaluate`, from a
score of 0.01 on (ultralytics: 0.001, as it evaluates itself).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

from demo_job import demo_hyperparameters  # noqa: E402
from lay_out import find_coco_files  # noqa: E402
from methods import reduced  # noqa: E402
from runs import (  # noqa: E402
    BY_THE_CPUS_CLOCK,
    as_far_as_time_reaches,
    kept,
    on_one_core,
    require_time,
    train_once,
)
from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.data.checks import make_records  # noqa: E402
from tilewise.data.files.folder import Folder  # noqa: E402
from tilewise.data.formats.coco import read_coco  # noqa: E402
from tilewise.evaluation.coco import coco_metrics  # noqa: E402
from tilewise.instances import Instances  # noqa: E402
from tilewise.suppression import Limits, suppress  # noqa: E402

SETS = ("bccd", "bccd_160x120", "hemocytometer", "nuclei", "flakes")
WAYS = {
    "auto": {},
    "stride_4": {"stride_4_level": "1"},
    "no_windows": {"random_windows": "0"},
    "fixed": {"training_views": "fixed"},
    "whole": {"training_views": "whole"},
}
OURS = tuple(f"{model}/{way}" for model in ("yolox_tiny", "yolox_nano") for way in WAYS)
ULTRALYTICS = tuple(f"{model}/{way}" for model in ("yolo11n", "yolov8n") for way in ("whole", "slices"))
BOXES = 1000
"""At most so many of an image, where a peer has fewer by default than the densest image holds."""
_FASTER = {"min_size": 480, "max_size": 640, "box_detections_per_img": BOXES}
TORCHVISION: dict[str, tuple[dict[str, int], float]] = {
    "fasterrcnn_mobilenet_v3_large_fpn": (_FASTER, 0.0005),
    "fasterrcnn_resnet50_fpn": (_FASTER, 0.0002),
    "ssdlite320_mobilenet_v3_large": ({"topk_candidates": BOXES, "detections_per_img": BOXES}, 0.002),
}
"""Settings of torchvision's model, and AdamW's learning rate for batches of four."""
SIDES = (*OURS, *ULTRALYTICS, *TORCHVISION)
FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")
SLICE, OVERLAP, SHOWN, EMPTY = 320, 0.2, 0.4, 1 / 3
WHOLE = 640
WARM_UP = 0.05
"""Of the time."""


def evaluated(data: Path, found: list[Instances]) -> dict[str, Any]:
    """COCO's figures of what was found in the validation images, in the order of their file."""
    content = read_coco(find_coco_files(data)[1] or data, Folder(data / "images"))
    records = make_records(content.examples, ChannelIssues("validation"))
    metrics = coco_metrics(records, found, content.classes or ())
    return {name: metrics[name] for name in FIGURES}


def train_ours(side: str, data: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Ours, of the validation that chose the model."""
    model, _, way = side.partition("/")
    chosen = {"model_name": model, "minutes": f"{minutes:g}", "seed": str(seed)}
    figures = train_once(data, demo_hyperparameters(chosen | WAYS[way]), program=BY_THE_CPUS_CLOCK)
    return {name: figures[name] for name in (*FIGURES, "cpu_minutes")}


def windows(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Slices of an image: left, top, right, bottom."""

    def starts(side: int) -> list[int]:
        last = max(0, side - SLICE)
        return [*range(0, last, round(SLICE * (1 - OVERLAP))), last]

    return [
        (x, y, min(x + SLICE, width), min(y + SLICE, height)) for y in starts(height) for x in starts(width)
    ]


def write_yolo_set(data: Path, folder: Path, seed: int, *, sliced: bool) -> list[str]:
    """Training images or their slices, with a text file each as YOLO has them.

    Returns:
        The names of the classes.

    """
    content = json.loads(find_coco_files(data)[0].read_text())
    categories = sorted(content["categories"], key=lambda category: category["id"])
    labels = {category["id"]: label for label, category in enumerate(categories)}
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    views: list[tuple[str, tuple[int, int, int, int], str]] = []
    for image in content["images"]:
        boxes = [
            (labels[each["category_id"]], *each["bbox"])
            for each in content["annotations"]
            if each["image_id"] == image["id"] and not each.get("iscrowd")
        ]
        whole = (0, 0, image["width"], image["height"])
        for window in windows(*whole[2:]) if sliced else [whole]:
            lines = "".join(filter(None, (_yolo_line(box, window) for box in boxes)))
            views.append((image["file_name"], window, lines))
    empty = [view for view in views if not view[2]]
    if sliced:
        most = round(EMPTY * (len(views) - len(empty)))
        chosen = np.random.default_rng(seed).permutation(len(empty))[:most]
        views = [view for view in views if view[2]] + [empty[index] for index in chosen]
    for number, (name, window, lines) in enumerate(sorted(views)):
        with Image.open(data / "images" / name) as picture:
            picture.convert("RGB").crop(window).save(folder / "images" / f"{number:06}.png", compress_level=1)
        (folder / "labels" / f"{number:06}.txt").write_text(lines)
    return [category["name"] for category in categories]


def _yolo_line(box: tuple[float, ...], window: tuple[int, int, int, int]) -> str:
    label, x, y, width, height = box
    left, top, right, bottom = window
    x1, y1, x2, y2 = max(x, left), max(y, top), min(x + width, right), min(y + height, bottom)
    if x2 <= x1 or y2 <= y1 or (x2 - x1) * (y2 - y1) < SHOWN * width * height:
        return ""
    across, down = right - left, bottom - top
    centre = ((x1 + x2) / 2 - left) / across, ((y1 + y2) / 2 - top) / down
    return f"{label} {centre[0]:.6f} {centre[1]:.6f} {(x2 - x1) / across:.6f} {(y2 - y1) / down:.6f}\n"


def train_ultralytics(
    python: Path | None, side: str, data: Path, minutes: float, seed: int
) -> dict[str, Any]:
    """Ultralytics' figures."""
    if python is None:
        raise SystemExit("ultralytics needs --ultralytics PYTHON: one that has the package")
    model, _, way = side.partition("/")
    sliced = way == "slices"
    images = []
    for image in json.loads((find_coco_files(data)[1] or data).read_text())["images"]:
        size = image["width"], image["height"]
        views = [(0, 0, *size)]
        if sliced and len(windows(*size)) > 1:
            views = windows(*size) + views
        images.append({"path": str((data / "images" / image["file_name"]).resolve()), "windows": views})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {"model": model, "image_size": SLICE if sliced else WHOLE, "minutes": minutes, "seed": seed}
        job |= {"data": str(folder / "data"), "images": images}
        job["classes"] = write_yolo_set(data, folder / "data", seed, sliced=sliced)
        (folder / "job.json").write_text(json.dumps(job))
        files = [str(folder / "job.json"), str(folder / "found.json")]
        command = [str(python), str(ROOT / "benchmarks" / "ultralytics_peer.py"), *files]
        subprocess.run(command, check=True, stdout=sys.stderr, cwd=folder)
        answer = json.loads((folder / "found.json").read_text())
    merged = [_merged(of_windows) for of_windows in answer["images"]]
    spent = {"cpu_minutes": round(answer["cpu_minutes"], 2), "epochs": answer["epochs"]}
    return evaluated(data, merged) | spent


def _merged(of_windows: list[dict[str, Any]]) -> Instances:
    """What was found in all windows of an image, after suppression over all of them."""
    boxes = np.concatenate([np.reshape(each["boxes"], (-1, 4)) for each in of_windows]).astype(np.float32)
    scores = np.concatenate([each["scores"] for each in of_windows]).astype(np.float32)
    labels = np.concatenate([each["labels"] for each in of_windows]).astype(np.int64)
    if len(of_windows) == 1:  # suppressed already
        return Instances(boxes, scores, labels)
    return suppress(boxes, scores, labels, limits=Limits(0.0, 0.5, 0, len(boxes)))


def train_torchvision(side: str, data: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Torchvision's figures, by a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "figures.json"
        job = json.dumps({"side": side, "data": str(data), "minutes": minutes, "seed": seed})
        command = [sys.executable, __file__, "--torchvision-job", job, str(target)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return dict(json.loads(target.read_text()))


def torchvision_job(job: dict[str, Any], target: Path) -> None:
    """Train one of torchvision's models and write its figures."""
    import torch
    from reference_accuracy import detect
    from reference_loop import Reference
    from training_speed import prepare

    prepare(1)
    data, budget = Path(job["data"]), 60 * job["minutes"]
    settings, rate = TORCHVISION[job["side"]]
    content = read_coco(find_coco_files(data)[1] or data, Folder(data / "images"))
    classes = content.classes or ()
    reference = Reference(job["side"], data, len(classes), 4, 0, job["seed"], settings)
    trained = [parameter for parameter in reference.model.parameters() if parameter.requires_grad]
    reference.optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    start, images = time.process_time(), 0
    while (share := (time.process_time() - start) / budget) < 1:
        warm = min(1.0, (share + 1e-3) / WARM_UP)
        reference.optimizer.param_groups[0]["lr"] = rate * warm * (1 + math.cos(math.pi * share)) / 2
        images += reference.loop(1)[0]
    spent = (time.process_time() - start) / 60
    records = make_records(content.examples, ChannelIssues("validation"))
    figures = evaluated(data, detect(reference, records, 0.01))
    facts = {"cpu_minutes": round(spent, 2), "epochs": round(images / len(reference.loader) / 4, 1)}
    target.write_text(json.dumps(figures | facts))


def run_one(
    python: Path | None, side: str, data: Path, minutes: float, seed: int, end: float
) -> dict[str, Any]:
    """A run's figures.

    Raises:
        TimeoutError: no run may begin any more.

    """
    require_time(end)
    if side in OURS:
        figures = train_ours(side, data, minutes, seed)
    elif side in ULTRALYTICS:
        figures = train_ultralytics(python, side, data, minutes, seed)
    else:
        figures = train_torchvision(side, data, minutes, seed)
    print(data.name, side, seed, json.dumps(figures), file=sys.stderr, flush=True)
    return figures


def table(runs: Path) -> str:
    """The means over the seeds of all runs in a file, and the least and largest AP, in Markdown."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in map(json.loads, runs.read_text().splitlines()):
        job = line["job"]
        groups.setdefault((job["set"], f"{job['minutes']:g}", job["side"]), []).append(line["figures"])
    head = ["set", "minutes", "side", "seeds", *FIGURES, "AP, least to most", "minutes of the CPU"]
    rows = [head, ["---"] * len(head)]
    for key in sorted(groups, key=_order):
        figures = groups[key]
        means = [_mean([each[name] for each in figures]) for name in FIGURES]
        aps = [each["AP"] or 0.0 for each in figures]
        spent = statistics.mean(each["cpu_minutes"] for each in figures)
        spread = f"{min(aps):.3f} to {max(aps):.3f}" if len(aps) > 1 else ""
        rows.append([*key, str(len(figures)), *means, spread, f"{spent:.1f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _order(key: tuple[str, str, str]) -> tuple[int, str, float, int]:
    return (SETS.index(key[0]) if key[0] in SETS else len(SETS)), key[0], float(key[1]), SIDES.index(key[2])


def _mean(values: list[float | None]) -> str:
    """Empty where a set has no such object."""
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.3f}" if known else ""


def main() -> None:
    """Run what is asked for and is not there yet, as far as the time reaches, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="holds a folder for each set")
    parser.add_argument("--runs", type=Path, help="the file of the runs' lines")
    parser.add_argument("--table", type=Path, metavar="RUNS", help="only print the table of these runs")
    parser.add_argument("--ultralytics", type=Path, metavar="PYTHON", help="one that has the package")
    parser.add_argument("--minutes", type=float, default=17, help="of training, of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="SET", help="folders of DATA")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE")
    parser.add_argument("--core", type=int, help="where all runs take place; the first one by default")
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="after so many minutes no further run begins"
    )
    parser.add_argument("--torchvision-job", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torchvision_job:
        torchvision_job(json.loads(arguments.torchvision_job[0]), Path(arguments.torchvision_job[1]))
        return
    if arguments.table:
        print(table(arguments.table))
        return
    if not (arguments.data and arguments.runs):
        parser.error("name DATA and --runs, or --table")
    on_one_core(arguments.core)
    end = time.monotonic() + 60 * arguments.stop_after
    made = arguments.runs.with_suffix("")
    made.mkdir(parents=True, exist_ok=True)
    with as_far_as_time_reaches(arguments.runs, table):
        for seed in arguments.seeds:
            for name in arguments.sets:
                data = arguments.data / name
                if name == "bccd_160x120":
                    data = reduced(arguments.data / "bccd", (160, 120), made)
                for side in arguments.sides:
                    job = {"set": name, "side": side, "minutes": arguments.minutes, "seed": seed}
                    run = partial(run_one, arguments.ultralytics, side, data, arguments.minutes, seed, end)
                    kept(arguments.runs, job, run)


if __name__ == "__main__":
    main()
