"""`masks.py train`: what jobs with masks learn in equal minutes of a core, beside torchvision's Mask R-CNN.

A run is a process of its own that learns, and then another that looks at the validation images with the last
weights; its line is written as both have ended. Torchvision's side is what its references/detection does: its
Mask R-CNN with a ResNet-18, SGD with the rule that 0.02 suits 16 images, a warm-up in the first epoch, steps
at 16/26 and 22/26 of the way, mirrored images; the way is the minutes. Both sides keep as many detections.
All minutes and seconds are the CPU's, so that other work on the machine costs no side its epochs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

MODELS: dict[str, dict[str, str]] = {
    "maskrcnn_resnet18_fpn": {
        "min_size": "256",
        "max_size": "352",
        "training_batch_size": "2",
        "learning_rate": "0.0005",
    },
    "maskyolox_tiny": {"image_size": "416", "training_batch_size": "4"},
}
"""Hyperparameters of each: views in which a run of some minutes learns something."""

TORCHVISION = "torchvision"
WAYS = ("whole", "fixed", "grid")
COMMON = {
    "task": "instance_segmentation",
    "optimizer": "adamw",
    "learning_rate": "0.001",
    "weight_decay": "0.01",
    "validation_metric_type": "none",
    "box_score_threshold": "0.01",
    "use_pretrained_model": "0",
    "early_stopping": "0",
    "num_workers": "0",
}


@dataclass(frozen=True)
class Run:
    """One of the runs; its fields tell it from the others in the file."""

    data: str
    model: str
    views: str
    seed: int
    minutes: float


def train_all(arguments: argparse.Namespace) -> None:
    """``masks.py train``: every run whose line is not there yet, on one core each, one after the other."""
    data, out = arguments.data, arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = out.read_text().splitlines() if out.is_file() else []
    done = {Run(**{name: line[name] for name in Run.__annotations__}) for line in map(json.loads, lines)}
    for seed, model in itertools.product(arguments.seeds, arguments.models):
        for way in arguments.ways if model != TORCHVISION else ("whole",):
            run = Run(data.name, model, way, seed, arguments.minutes)
            if run in done:
                continue
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                masked = with_masks(data, folder / data.name)
                if model == TORCHVISION:
                    figures = _torchvisions(run, masked, folder)
                else:
                    figures = _ours(run, masked, folder, arguments.hyperparameters)
                    if arguments.keep:
                        kept = arguments.keep / f"{run.data}_{model}_{way}_{seed}"
                        shutil.copytree(folder / "ml" / "model", kept, dirs_exist_ok=True)
            with out.open("a") as file:
                file.write(json.dumps(run.__dict__ | figures) + "\n")
            print(json.dumps(run.__dict__ | figures), flush=True)


def with_masks(data: Path, folder: Path) -> Path:
    """The data set with ``train.json`` and ``val.json`` that have masks: their own, or those beside them."""
    folder.mkdir()
    (folder / "images").symlink_to((data / "images").resolve())
    for name in ("train", "val"):
        masked, plain = data / f"{name}_masks.json", data / f"{name}.json"
        (folder / f"{name}.json").symlink_to((masked if masked.is_file() else plain).resolve())
    return folder


def _ours(run: Run, data: Path, folder: Path, chosen: list[str]) -> dict[str, Any]:
    from lay_out import lay_out_job
    from runs import BY_THE_CPUS_CLOCK, cpu_of_children

    raw = COMMON | MODELS.get(run.model, {}) | dict(pair.split("=", 1) for pair in chosen)
    raw |= {"model_name": run.model, "seed": str(run.seed), "minutes": f"{run.minutes:g}"}
    raw["training_views"] = run.views
    base = folder / "ml"
    lay_out_job(data, base, raw)
    start = cpu_of_children()
    log = _on_one_core([str(each) for each in BY_THE_CPUS_CLOCK], SAGEMAKER_BASE_DIR=str(base))
    minutes = (cpu_of_children() - start) / 60
    epochs = json.loads((base / "output" / "data" / "metrics.json").read_text())["epochs"]
    seconds, views = (sum(epoch[name] for epoch in epochs) for name in ("seconds", "records"))
    peak = re.search(r"peak memory: (\S+) GiB", log)
    learnt = {
        "train_views_per_second": round(views / seconds, 2),
        "Mpx": round(sum(epoch["pixels"] for epoch in epochs) / 1e6),
        "epochs": len(epochs),
        "minutes_of_the_job": round(minutes, 1),
        "train_peak_GiB": float(peak[1]) if peak else None,
    }
    looked: dict[str, Any] = json.loads(_on_one_core([__file__, "look", str(data), str(base / "model")]))
    return learnt | looked


def _torchvisions(run: Run, data: Path, folder: Path) -> dict[str, Any]:
    job = [str(data), str(folder / "weights.pth")]
    train = [__file__, "torchvision", *job, str(run.minutes), str(run.seed)]
    learnt: dict[str, Any] = json.loads(_on_one_core(train))
    looked: dict[str, Any] = json.loads(_on_one_core([__file__, "look_torchvision", *job]))
    return learnt | looked


def _on_one_core(command: list[str], **environ: str) -> str:
    """What a Python program prints, on one thread."""
    program = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if program.returncode:
        said = program.stdout[-4000:] + program.stderr[-4000:]
        raise SystemExit(f"{' '.join(command)} ended with {program.returncode}\n{said}")
    return program.stdout


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2)


# What follows runs in processes of its own.


def judged(data: Path, records: Any, found: list[Any], seconds: float) -> dict[str, Any]:
    """The figures of what a model has found in the validation images, all sides alike."""
    from tilewise.evaluation.evaluate import metrics

    content = json.loads((data / "val.json").read_text())
    names = [category["name"] for category in sorted(content["categories"], key=lambda each: each["id"])]
    figures = metrics(records, found, tuple(names))
    return {
        **{f"mask_{name}": figures[name] for name in ("AP", "AP50", "AP_small")},
        "box_AP": figures["box"]["AP"],
        "images_per_second": round(len(records) / seconds, 3),
        "inference_peak_GiB": _peak(),
    }


def validation_records(data: Path) -> Any:
    """The validation images, with masks."""
    from tilewise.data.channel_issues import ChannelIssues
    from tilewise.data.checks import make_records
    from tilewise.data.read import read_annotated
    from tilewise.masks import MASKS

    parsed = read_annotated("val", data / "images", data / "val.json", fields=frozenset({MASKS}))
    return make_records(parsed.examples, ChannelIssues("val"))


def look(data: Path, model: Path) -> dict[str, Any]:
    """Predict with a trained model as an endpoint does, its masks as run lengths included."""
    from tilewise.inference.predictor import Predictor
    from tilewise.masks import masks_in

    records, predictor = validation_records(data), Predictor.load(model)
    predictor.warm_up()
    seconds, found = 0.0, []
    for record in records:
        start = time.process_time()
        prediction = predictor.predict(record.source)
        masks = masks_in(prediction.detections.fields)
        if masks is not None:
            masks.encoded(prediction.width, prediction.height)
        seconds += time.process_time() - start
        found.append(prediction.detections)
    return judged(data, records, found, seconds)


MOST = 750
"""Detections that torchvision's model keeps of an image: as ours of nuclei, twice the most objects."""


def torchvisions_model(classes: int) -> Any:
    """Its Mask R-CNN with a ResNet-18 and views as large as ours of whole images, with fresh weights."""
    from torch import nn
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    own = MODELS["maskrcnn_resnet18_fpn"]
    sides = {name: int(own[name]) for name in ("min_size", "max_size")}
    kept = {"box_score_thresh": 0.01, "box_detections_per_img": MOST}
    return MaskRCNN(backbone, classes + 1, **sides, **kept)


def _images_of(data: Path, coco: Any) -> Any:
    """Torchvision's samples: tensors of images, and their targets with masks of the whole image."""
    import torch
    from PIL import Image
    from torchvision.transforms.v2 import functional as F

    labels = {category: number for number, category in enumerate(sorted(coco.getCatIds()), 1)}

    class Images(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(coco.getImgIds())

        def __getitem__(self, index: int) -> Any:
            number = sorted(coco.getImgIds())[index]
            with Image.open(data / "images" / coco.loadImgs(number)[0]["file_name"]) as file:
                pixels = F.to_dtype(F.to_image(file.convert("RGB")), torch.float32, scale=True)
            rows = coco.loadAnns(coco.getAnnIds(number, iscrowd=False))
            boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            masks = [torch.from_numpy(coco.annToMask(row)) for row in rows]
            target = {
                "boxes": boxes[kept],
                "labels": torch.tensor([labels[row["category_id"]] for row in rows], dtype=torch.int64)[kept],
                "masks": torch.stack(masks)[kept] if masks else torch.zeros((0, *pixels.shape[1:])),
            }
            if torch.rand(()) < 0.5:
                width = pixels.shape[2]
                target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
                pixels, target["masks"] = pixels.flip(2), target["masks"].flip(2)
            return pixels, target

    return Images()


def _coco(path: Path) -> Any:
    import contextlib

    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(sys.stderr):
        return COCO(str(path))


def learn_torchvision(data: Path, weights: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Train torchvision's model for so many minutes, and keep its weights."""
    import torch
    from torch.utils.data import DataLoader

    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    coco = _coco(data / "train.json")
    model, batch = torchvisions_model(len(coco.getCatIds())).train(), 2
    loader = DataLoader(
        _images_of(data, coco), batch, shuffle=True, collate_fn=lambda rows: tuple(zip(*rows, strict=True))
    )
    rate = 0.02 * batch / 16
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    start, steps, images_seen = time.process_time(), 0, 0
    warm_up = max(1, min(1000, len(loader) - 1))
    while (way := (time.process_time() - start) / (60 * minutes)) < 1:
        for images, targets in loader:
            slow = min(1.0, 0.001 + steps / warm_up)
            late = 0.1 ** sum(way >= milestone / 26 for milestone in (16, 22))
            optimizer.param_groups[0]["lr"] = rate * slow * late
            total = sum(model(list(images), list(targets)).values())
            if not math.isfinite(total.item()):
                raise RuntimeError("torchvision's loss is not finite")
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            steps, images_seen = steps + 1, images_seen + len(images)
            if (way := (time.process_time() - start) / (60 * minutes)) >= 1:
                break
    seconds = time.process_time() - start
    torch.save(model.state_dict(), weights)
    return {
        "train_views_per_second": round(images_seen / seconds, 2),
        "epochs": round(images_seen / len(coco.getImgIds()), 2),
        "minutes_of_the_job": round(seconds / 60, 1),
        "train_peak_GiB": _peak(),
    }


def look_torchvision(data: Path, weights: Path) -> dict[str, Any]:
    """Predict with torchvision's model, whose masks are as large as the image, and encode them."""
    import numpy as np
    import torch
    from PIL import Image
    from pycocotools import mask as coco_masks
    from tilewise.instances import Instances
    from tilewise.masks import MASKS, Masks, RunLengths
    from tilewise.rasters import decompressed
    from torchvision.transforms.v2 import functional as F

    torch.set_flush_denormal(True)
    records = validation_records(data)
    model = torchvisions_model(len(json.loads((data / "val.json").read_text())["categories"])).eval()
    model.load_state_dict(torch.load(weights))
    seconds, found = 0.0, []
    for record in records:
        start = time.process_time()
        with Image.open(record.path) as file:
            pixels = F.to_dtype(F.to_image(file.convert("RGB")), torch.float32, scale=True)
        with torch.inference_mode():
            (one,) = model([pixels])
        masks = [coco_masks.encode(np.asfortranarray(each[0].numpy() > 0.5)) for each in one["masks"]]
        seconds += time.process_time() - start
        shapes = [RunLengths(record.width, record.height, decompressed(each["counts"])) for each in masks]
        boxes, scores, labels = (one[name].numpy() for name in ("boxes", "scores", "labels"))
        found.append(Instances(boxes, scores, labels - 1, {MASKS: Masks.of(shapes)}))
    return judged(data, records, found, seconds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``masks.py train``."""
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value", help="of our jobs")
    parser.add_argument("--minutes", type=float, default=15, help="of one core that each run learns for")
    parser.add_argument("--models", nargs="+", default=[*MODELS, TORCHVISION])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["whole", "fixed"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for our models")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "masks.jsonl")


def main() -> None:
    """The processes of a run."""
    part, *rest = sys.argv[1:]
    if part == "look":
        found = look(Path(rest[0]), Path(rest[1]))
    elif part == "torchvision":
        found = learn_torchvision(Path(rest[0]), Path(rest[1]), float(rest[2]), int(rest[3]))
    else:
        found = look_torchvision(Path(rest[0]), Path(rest[1]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
