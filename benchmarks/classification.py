"""Image classification from sets of objects, beside "always the majority" and timm's own training script.

python benchmarks/classification.py CASE DATA [name=value …] [--seeds 0 1 2] [--runs FILE] [--timm TRAIN.PY]

DATA holds train.json, val.json (COCO) and images/. CASE is

    crops    each object is cut out: one class an image
    images   the classes of the objects in an image: any number
    tiles    the same of 3 x 2 tiles, cut beforehand, of the objects of which half can be seen

Each run prints one JSON line, and FILE keeps it: what it has is not run again. With --timm, and one class an
image, timm's train.py (github.com/huggingface/pytorch-image-models, of the installed version or nearly) in
turn with ours trains on the same folders for as many epochs, with the same network, crop, batch, rates and
threads. Both start from random weights. ``images_per_second`` are those of training, without validation.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from runs import ROOT, kept, threads
from tilewise.arrays import Bool
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set
from tilewise.data.choice import DataChoice
from tilewise.data.image_labels import ONE_LABEL, SEVERAL_LABELS, shown_classes
from tilewise.tasks.classification.metrics import figures_of
from tilewise.tiling.grid import grid_windows

CASES = ("crops", "images", "tiles")
GRID, OVERLAP, SEEN = (3, 2), 0.1, 0.5
HYPERPARAMETERS = {
    "model_name": "resnet18",
    "use_pretrained_model": "0",
    "number_of_epochs": "10",
    "training_crop_size": "64",
    "validation_crop_size": "64",
    "validation_resize_size": "72",
    "training_batch_size": "32",
    "validation_batch_size": "32",
    "learning_rate": "0.05",
    "num_workers": "0",
    "early_stopping": "0",
}
_TIMMS_RATE = re.compile(r"\([\d.]+s,\s+([\d.]+)/s\)")


def lay_out(case: str, data: Path, folder: Path) -> None:
    """Write ``train`` and ``validation`` as images with classes below ``folder``."""
    source = cut_tiles(data, folder / "tiles") if case == "tiles" else data
    for name, file in (("train", "train.json"), ("validation", "val.json")):
        how = (
            ("--task", "classification", "--objects-as", "crops", "--to", "folders")
            if case == "crops"
            else ("--task", "multilabel_classification", "--objects-as", "labels", "--to", "azure-jsonl")
        )
        places = [str(source / "images"), str(folder / name), "--annotations", str(source / file)]
        command = [sys.executable, "-m", "tilewise", "convert", *places, *how]
        environ = os.environ | {"PYTHONPATH": str(ROOT / "container")}
        subprocess.run(command, check=True, env=environ, capture_output=True)


def cut_tiles(data: Path, folder: Path) -> Path:
    """The tiles of a data set as one of its own: images/, train.json and val.json."""
    (folder / "images").mkdir(parents=True)
    for file in ("train.json", "val.json"):
        content = json.loads((data / file).read_text())
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image in content["images"]:
            pixels = Image.open(data / "images" / image["file_name"]).convert("RGB")
            own = [each for each in content["annotations"] if each["image_id"] == image["id"]]
            for window in grid_windows(*pixels.size, GRID, overlap=OVERLAP):
                name = f"{Path(image['file_name']).stem}-{window[0]}-{window[1]}.png"
                pixels.crop(window).save(folder / "images" / name)
                annotations += _seen_in(window, own, image_id=len(images), first=len(annotations))
                images.append({"id": len(images), "file_name": name})
        tiles = {"images": images, "annotations": annotations, "categories": content["categories"]}
        (folder / file).write_text(json.dumps(tiles))
    return folder


def _seen_in(
    window: tuple[int, int, int, int], annotations: list[dict[str, Any]], *, image_id: int, first: int
) -> list[dict[str, Any]]:
    left, top, right, bottom = window
    seen: list[dict[str, Any]] = []
    for each in annotations:
        x, y, width, height = each["bbox"]
        x0, y0, x1, y1 = max(x, left), max(y, top), min(x + width, right), min(y + height, bottom)
        if x1 > x0 and y1 > y0 and (x1 - x0) * (y1 - y0) >= SEEN * width * height:
            box = [x0 - left, y0 - top, x1 - x0, y1 - y0]
            kind = {"category_id": each["category_id"], "iscrowd": each.get("iscrowd", 0)}
            seen.append({"id": first + len(seen), "image_id": image_id, "bbox": box, **kind})
    return seen


def read(folder: Path, *, several: bool) -> tuple[DataSet, Bool, Bool]:
    """The data, and (N, C) which classes the images for training and for validation have."""
    choice = DataChoice(fields=frozenset({SEVERAL_LABELS if several else ONE_LABEL}))
    channels = {name: ChannelFolder(folder / name) for name in ("train", "validation")}
    data = read_data_set(channels, None, validates=True, seed=0, choice=choice)
    assert data.validation is not None
    classes = len(data.classes)
    return data, shown_classes(data.train.sample, classes), shown_classes(data.validation.sample, classes)


def majority(folder: Path, *, several: bool) -> dict[str, float]:
    """The figures of who says of every image what most training images have."""
    _, train, validation = read(folder, several=several)
    shares = train.mean(axis=0)
    scores = np.tile(shares, (len(validation), 1))
    return chosen(figures_of(validation, scores, several=several), several=several)


def chosen(figures: dict[str, Any], *, several: bool) -> dict[str, float]:
    """The figures of the table."""
    names = ("average_precision_score_macro", "iou") if several else ("accuracy", "balanced_accuracy")
    return {name: round(float(figures[name]), 4) for name in names}


def train_ours(folder: Path, raw: dict[str, str], *, several: bool) -> dict[str, Any]:
    """One job of ours."""
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        for name in ("model", "output/data", "input/config", "input/data"):
            (base / name).mkdir(parents=True)
        channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}
        for name in ("train", "validation"):
            (base / "input" / "data" / name).symlink_to(folder / name)
        task = "multilabel_classification" if several else "classification"
        for name, content in (
            ("hyperparameters", raw | {"task": task}),
            ("inputdataconfig", {"train": channel, "validation": channel}),
            ("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"]}),
        ):
            (base / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
        environ = os.environ | {"SAGEMAKER_BASE_DIR": str(base)}
        start = time.monotonic()
        subprocess.run([sys.executable, ROOT / "train"], env=environ, check=True, capture_output=True)
        minutes = (time.monotonic() - start) / 60
        metrics = json.loads((base / "output" / "data" / "metrics.json").read_text())
    epochs = metrics["epochs"]
    rate = sum(each["records"] for each in epochs) / sum(each["seconds"] for each in epochs)
    last = chosen(epochs[-1]["validation"], several=several)
    best = chosen(metrics["best"], several=several)
    return {**best, "last": last, "minutes": round(minutes, 2), "images_per_second": round(rate, 1)}


def train_timm(folder: Path, raw: dict[str, str], script: Path, seed: int) -> dict[str, Any]:
    """One run of timm's script on the same folders, with what it has of the same name."""
    with tempfile.TemporaryDirectory() as output:
        options = {
            "model": raw["model_name"],
            "train-split": "train",
            "val-split": "validation",
            "num-classes": sum(path.is_dir() for path in (folder / "train").iterdir()),
            "img-size": raw["training_crop_size"],
            "crop-pct": int(raw["validation_crop_size"]) / int(raw["validation_resize_size"]),
            "epochs": raw["number_of_epochs"],
            "batch-size": raw["training_batch_size"],
            "lr": raw["learning_rate"],
            "weight-decay": 1e-4,
            "warmup-epochs": 2,
            "smoothing": 0,
            "workers": raw["num_workers"],
            "seed": seed,
            "log-interval": 1,
            "device": "cpu",
            "output": output,
            "experiment": "run",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, str(script), str(folder), *words, "--channels-last", "--no-prefetcher"]
        start = time.monotonic()
        log = subprocess.run(command, check=True, capture_output=True, text=True)
        minutes = (time.monotonic() - start) / 60
        with (Path(output) / "run" / "summary.csv").open() as file:
            rows = list(csv.DictReader(file))
    epochs = re.split(r"Train: \d+ \[ *0/", log.stdout + log.stderr)[1:]
    rates = [float(_TIMMS_RATE.findall(epoch)[-1]) for epoch in epochs if _TIMMS_RATE.findall(epoch)]
    accuracies = [float(row["eval_top1"]) / 100 for row in rows]
    return {
        "accuracy": round(max(accuracies), 4),
        "last": {"accuracy": round(accuracies[-1], 4)},
        "minutes": round(minutes, 2),
        "images_per_second": round(statistics.harmonic_mean(rates), 1),
    }


def main() -> None:
    """Run a case, and print its lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, help="keeps each run's figures; what it has is not run again")
    parser.add_argument("--timm", type=Path, help="timm's train.py, to train the same in turn (crops only)")
    arguments = parser.parse_intermixed_args()
    if arguments.timm and arguments.case != "crops":
        parser.error("--timm trains on images with one class: give it with the case crops")
    several = arguments.case != "crops"
    raw = HYPERPARAMETERS | dict(text.split("=", 1) for text in arguments.hyperparameters)
    job = {"case": arguments.case, "data": arguments.data.name, "hyperparameters": raw, "threads": threads()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lay_out(arguments.case, arguments.data.resolve(), folder)

        def line(who: str, seed: int | None, run: Callable[[], dict[str, Any]]) -> None:
            figures = kept(arguments.runs, job | {"who": who, "seed": seed}, run)
            where = {"case": arguments.case, "data": arguments.data.name, "who": who, "seed": seed}
            print(json.dumps({**where, **figures}), flush=True)

        line("majority", None, partial(majority, folder, several=several))
        for seed in arguments.seeds:
            line("tilewise", seed, partial(train_ours, folder, raw | {"seed": str(seed)}, several=several))
            if arguments.timm:
                line("timm", seed, partial(train_timm, folder, raw, arguments.timm, seed))


if __name__ == "__main__":
    main()
