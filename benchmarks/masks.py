"""Instance segmentation: speed of the models, memory of masks, and what jobs learn in a few minutes.

python benchmarks/masks.py speed [--side 320] [--threads 2]
python benchmarks/masks.py memory [--masks 1000000]
python benchmarks/masks.py merge [--scenes 10]
python benchmarks/masks.py train DATA [name=value …] [--minutes 15] [--models …] [--ways whole fixed grid]
    [--seeds 0 1 2] [--out FILE]

``speed``: images a second of each model at the same side, and the ratio to Mask R-CNN R18.
``memory``: of reading masks, and of placing 5,000 in a scene of 20,000 x 15,000 pixels.
``merge``: crowded scenes of tilted ellipses, half of them across borders of tiles: how many of 1,000 stand
more than once or are lost after merging, and the mean IoU of masks; with PyPI's ``sahi`` SAHI's ways, too.
``train``: two models learn from whole images, from tiles of a fixed size or a grid that is chosen from the
data, and torchvision's Mask R-CNN by its own loop, all on one core and for as many minutes. DATA holds
train.json and val.json, COCO files with masks, or train_masks.json and val_masks.json; and images/. A run's
line is written as it ends; a run whose line FILE has is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

import mask_training  # noqa: E402

MODELS = ("maskrcnn_resnet18_fpn", "maskyolox_nano", "maskyolox_tiny", "maskyolox_s")


def speed(side: int, threads: int) -> None:
    """Every model looks at the same views: the median of its times, with the same detections kept."""
    import torch
    from tilewise.models.build import build_detector
    from tilewise.models.spec import DetectorSpec
    from tilewise.registry import family_of
    from tilewise.views.view import Scaling

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    generator = torch.Generator().manual_seed(0)
    view = torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator)
    seconds: dict[str, float] = {}
    for name in MODELS:
        square = family_of(name).scaling == "square"
        scaling = Scaling(square=side) if square else Scaling(min_size=side, max_size=side)
        torch.manual_seed(0)
        # of fresh weights every candidate passes 0, so that all keep as many: 100
        detector = build_detector(DetectorSpec(name, 1, scaling, None, 0.0, 0.5, 100)).eval()
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        times = []
        with torch.inference_mode():
            for _ in range(6):
                start = time.perf_counter()
                (found,) = detector.detect([view])
                times.append(time.perf_counter() - start)
        seconds[name] = float(np.median(times[1:]))
        line = {
            "model": name,
            "side": side,
            "threads": threads,
            "kept": len(found),
            "images_per_second": round(1 / seconds[name], 2),
            "ratio": round(seconds[MODELS[0]] / seconds[name], 2),
        }
        print(json.dumps(line), flush=True)


def memory(count: int) -> None:
    """Each in a process of its own, whose peak is told."""
    for part in ("read", "place"):
        command = [sys.executable, __file__, "memory", "--masks", str(count), "--part", part]
        subprocess.run(command, check=True)


def read_masks(count: int) -> None:
    """A COCO file of ten polygons of 24 points an image, as a job reads it."""
    from PIL import Image
    from tilewise.data.channel_issues import ChannelIssues
    from tilewise.data.checks import make_records
    from tilewise.data.read import read_annotated
    from tilewise.masks import MASKS

    images, turns = count // 10, np.linspace(0, 2 * np.pi, 24, endpoint=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        with (folder / "coco.json").open("w") as file:
            rows = ({"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 480} for n in range(images))
            file.write('{"categories": [{"id": 1, "name": "cell"}], "images": [')
            file.write(",".join(map(json.dumps, rows)) + '], "annotations": [')
            rng = np.random.default_rng(0)
            for number in range(count):
                x, y, radius = rng.uniform(30, 600), rng.uniform(30, 440), rng.uniform(4, 24)
                ring = np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1).round(2)
                (x0, y0), (x1, y1) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
                row: dict[str, Any] = {"id": number, "image_id": number // 10, "category_id": 1, "iscrowd": 0}
                row |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [ring.reshape(-1).tolist()]}
                file.write((", " if number else "") + json.dumps(row))
            file.write("]}")
        first = folder / "images" / "0.jpg"
        Image.new("RGB", (640, 480)).save(first)
        for number in range(1, images):
            source = first if number % 50_000 else None
            target = folder / "images" / f"{number}.jpg"
            if source:
                os.link(first if number < 50_000 else folder / "images" / "50000.jpg", target)
            else:
                Image.new("RGB", (640, 480)).save(target)
        before, start = _peak(), time.perf_counter()
        fields = frozenset({MASKS})
        parsed = read_annotated("train", folder / "images", folder / "coco.json", fields=fields)
        records = make_records(parsed.examples, ChannelIssues("train"))
        seconds = time.perf_counter() - start
    line = {"masks": len(records.targets), "images": len(records), "seconds": round(seconds, 1)}
    print(json.dumps({**line, "before_MiB": before, "peak_MiB": _peak()}), flush=True)


def place_in_scene(objects: int = 5_000) -> None:
    """Masks that the tiles of a scene of 20,000 x 15,000 pixels have found, as its masks and run lengths."""
    from tilewise.bitmaps import Bitmaps
    from tilewise.inference.detections import merge_instances
    from tilewise.instances import Instances
    from tilewise.masks import MASKS, Masks
    from tilewise.tiling.spec import Tiling
    from tilewise.views.view import View

    rng = np.random.default_rng(0)
    shown, width, height, tile = [], 20_000, 15_000, 1_000
    tiles = [(x, y) for y in range(0, height, tile) for x in range(0, width, tile)]
    rows, columns = np.mgrid[:28, :28] - 13.5
    disc = (255 * (rows**2 + columns**2 < 14**2)).astype(np.uint8)
    for x, y in tiles:
        corners = rng.uniform(0, tile - 60, (objects // len(tiles) + 1, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + 50], axis=1)
        known = np.ones(len(boxes), np.bool_)
        fields = {MASKS: Bitmaps(np.repeat(disc[None], len(boxes), axis=0), boxes, known)}
        scores = rng.random(len(boxes)).astype(np.float32)
        found = Instances(boxes, scores, np.zeros(len(boxes), np.int64), fields)
        shown.append((View((x, y, x + tile, y + tile), (tile, tile)), found))
    before, start = _peak(), time.perf_counter()
    prediction = merge_instances(shown, width, height, Tiling(kind="fixed", tile_size=tile))
    masks = prediction.detections.fields[MASKS]
    assert isinstance(masks, Masks)
    encoded = masks.encoded(width, height)
    line = {"objects": len(encoded), "seconds": round(time.perf_counter() - start, 2)}
    print(json.dumps({**line, "before_MiB": before, "peak_MiB": _peak()}), flush=True)


WIDTH, HEIGHT, TILE = 1600, 1200, 400


def merge(scenes: int) -> None:
    """Every way merges the same detections; a line each."""
    from merging import sahis
    from tilewise.inference.detections import merge_instances
    from tilewise.tiling.plan import plan_views
    from tilewise.tiling.spec import Tiling
    from tilewise.views.view import Scaling

    tiling = Tiling("fixed", tile_size=TILE, overlap=0.2)
    views = plan_views(tiling, WIDTH, HEIGHT, scaling=Scaling(square=TILE))
    totals: dict[str, Any] = {}
    objects = 0
    for seed in range(scenes):
        rng = np.random.default_rng(seed)
        truth = _ellipses(rng, [view.window for view in views])
        objects += len(truth)
        shown = [(view, _look(view, truth, rng)) for view in views]
        alone = _each_alone(shown)
        found = {
            rule: _found(merge_instances(shown, WIDTH, HEIGHT, replace(tiling, merge=rule)).detections)
            for rule in ("fragment", "nms", "wbf")
        }
        for name, postprocess in sahis().items():
            found[name] = _of_sahi(postprocess(_for_sahi(alone)))
        for name, (scores, runs) in found.items():
            row = _judged(scores, runs, truth, _found(alone)[1])
            totals[name] = totals.get(name, 0) + np.array(row)
    for name, (doubled, lost, iou) in totals.items():
        line = {"merged_by": name, "scenes": scenes, "objects": objects}
        line |= {"doubled_per_1000": round(1000 * doubled / objects, 1)}
        line |= {"lost_per_1000": round(1000 * lost / objects, 1), "mean_mask_iou": round(iou / scenes, 4)}
        print(json.dumps(line), flush=True)


def _ellipses(rng: Any, windows: Any) -> list[Any]:
    """Masks of tilted ellipses that share no pixel, as run lengths; their boxes often overlap."""
    import cv2
    from pycocotools import mask as coco_masks

    taken = np.zeros((HEIGHT, WIDTH), np.uint8)
    found = []
    for number in range(900):
        centre = rng.uniform((0, 0), (WIDTH, HEIGHT))
        if number % 2:  # onto the border of a tile
            edge = rng.integers(4)
            centre[edge % 2] = windows[rng.integers(1, len(windows))][edge] + rng.normal(0, 8)
        long = np.exp(rng.normal(np.log(28), 0.5)).clip(6, 120)
        short = long * rng.uniform(0.25, 0.9)
        one = np.zeros_like(taken)
        axes = (int(long / 2) + 1, int(short / 2) + 1)
        cv2.ellipse(one, centre.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, 1, -1)
        if one.any() and not (one & taken).any():
            taken |= one
            found.append(coco_masks.encode(np.asfortranarray(one)))
    return found


def _look(view: Any, truth: list[Any], rng: Any) -> Any:
    """What a detector of middling quality finds: what the view shows of each mask, a little moved."""
    from pycocotools import mask as coco_masks
    from tilewise.bitmaps import Bitmaps
    from tilewise.instances import Instances
    from tilewise.masks import MASKS

    x0, y0, x1, y1 = view.window
    scale = view.size[0] / (x1 - x0)
    boxes, values, scores = [], [], []
    steps = (np.arange(28) + 0.5) / 28
    for runs in truth:
        left, top, wide, high = coco_masks.toBbox(runs)
        if left >= x1 or top >= y1 or left + wide <= x0 or top + high <= y0:
            continue
        part = coco_masks.decode(runs)[y0:y1, x0:x1]
        share = part.sum() / coco_masks.area(runs)
        size = scale * np.sqrt(part.sum())
        if share < 0.15 or rng.random() > np.clip((size - 4) / 8, 0, 0.97):
            continue
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        noise = rng.normal(0, 0.03, 4) * np.tile(box[2:] - box[:2], 2)
        x = (box[0] + steps * (box[2] - box[0])).astype(int)
        y = (box[1] + steps * (box[3] - box[1])).astype(int)
        values.append(255 * part[np.ix_(y, x)])
        boxes.append(scale * (box + noise).clip(0, [x1 - x0, y1 - y0] * 2))
        scores.append(np.clip(0.4 + 0.5 * np.sqrt(share) + rng.normal(0, 0.1), 0.05, 0.99))
    frames = np.array(boxes, np.float32).reshape(-1, 4)
    masks = Bitmaps(np.array(values, np.uint8).reshape(-1, 28, 28), frames, np.ones(len(frames), np.bool_))
    return Instances(frames, np.array(scores, np.float32), np.zeros(len(frames), np.int64), {MASKS: masks})


def _each_alone(shown: Any) -> Any:
    """All detections in the image, each with its own mask, unmerged."""
    from tilewise.inference.detections import merge_instances
    from tilewise.instances import Instances
    from tilewise.tiling.spec import Tiling

    parts = [merge_instances([one], WIDTH, HEIGHT, Tiling()).detections for one in shown]
    return Instances.cat(parts)


def _found(instances: Any) -> tuple[Any, list[Any]]:
    """Scores, and masks as run lengths."""
    encoded = instances.fields["masks"].encoded(WIDTH, HEIGHT)
    return instances.scores, [each for each in encoded if each is not None]


def _for_sahi(instances: Any) -> list[Any]:
    """The same as SAHI's objects, with the outlines of their masks."""
    from sahi.prediction import ObjectPrediction
    from tilewise.rasters import outline

    found = []
    for index, (box, score, _) in enumerate(instances):
        grid, (left, top, _, _) = instances.fields["masks"].grid(index)
        if grid.any():
            rings = [(ring + np.array([left, top])).reshape(-1).tolist() for ring in outline(grid)]
            found.append(ObjectPrediction(box, 0, "0", rings, score, [0, 0], [HEIGHT, WIDTH]))
    return found


def _of_sahi(predictions: list[Any]) -> tuple[Any, list[Any]]:
    from pycocotools import mask as coco_masks

    scores = np.array([float(each.score.value) for each in predictions])
    polygons = [[ring for ring in each.mask.segmentation if len(ring) >= 6] for each in predictions]
    runs = [coco_masks.merge(coco_masks.frPyObjects(rings, HEIGHT, WIDTH)) for rings in polygons if rings]
    return scores[[bool(rings) for rings in polygons]], runs


def _judged(scores: Any, runs: list[Any], truth: list[Any], raw: list[Any]) -> tuple[int, int, float]:
    """Objects that stand more than once, those that a view saw (IoU 0.5) but are lost, and the mean IoU."""
    from pycocotools import mask as coco_masks

    overlaps = np.asarray(coco_masks.iou(runs, truth, [0] * len(truth)))
    inside = np.asarray(coco_masks.iou(runs, truth, [1] * len(truth)))
    seen = np.asarray(coco_masks.iou(raw, truth, [0] * len(truth))).max(axis=0) >= 0.5
    free, ious, extra = np.ones(len(truth), bool), [], []
    for row in np.argsort(-scores, kind="stable").tolist():
        best = int((overlaps[row] * free).argmax())
        if free[best] and overlaps[row, best] >= 0.5:
            free[best] = False
            ious.append(overlaps[row, best])
        else:
            extra.append(row)
    doubled = int((inside[extra][:, ~free] > 0.5).any(axis=1).sum())
    return doubled, int((seen & free).sum()), float(np.mean(ious))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = parser.add_subparsers(dest="part_of_all", required=True)
    speeds = parts.add_parser("speed")
    speeds.add_argument("--side", type=int, default=320)
    speeds.add_argument("--threads", type=int, default=2)
    memories = parts.add_parser("memory")
    memories.add_argument("--masks", type=int, default=1_000_000)
    memories.add_argument("--part", choices=("read", "place"))
    merging = parts.add_parser("merge")
    merging.add_argument("--scenes", type=int, default=10)
    training = parts.add_parser("train")
    mask_training.add_arguments(training)
    arguments = parser.parse_args()
    if arguments.part_of_all == "speed":
        speed(arguments.side, arguments.threads)
    elif arguments.part_of_all == "merge":
        merge(arguments.scenes)
    elif arguments.part_of_all == "train":
        mask_training.train_all(arguments)
    elif arguments.part is None:
        memory(arguments.masks)
    elif arguments.part == "read":
        read_masks(arguments.masks)
    else:
        place_in_scene()


if __name__ == "__main__":
    main()
