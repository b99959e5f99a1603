"""Merging of tiles' detections beside SAHI's: what is doubled and lost, time and memory. Prints JSON.

python benchmarks/merging.py [--sizes 1000 10000 100000] [--scenes 20] [--limit-s 120]

Needs PyPI's `sahi` for the peers (benchmarks/README.md); without it, it measures Tilewise alone.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "tests")]

from scattered import scattered_detections  # noqa: E402
from tilewise.arrays import Bool, Int64  # noqa: E402
from tilewise.boxes import area, intersection  # noqa: E402
from tilewise.instances import Instances  # noqa: E402
from tilewise.tiling.merge import cut_sides, merge_detections  # noqa: E402
from tilewise.tiling.plan import plan_views  # noqa: E402
from tilewise.tiling.spec import Tiling  # noqa: E402
from tilewise.views.view import Scaling, View  # noqa: E402

try:
    import sahi
    from sahi.postprocess.combine import GreedyNMMPostprocess, NMSPostprocess
    from sahi.prediction import ObjectPrediction
except ImportError:
    sahi = None

WIDTH, HEIGHT, TILE = 3000, 2000, 640
SCALING = Scaling(square=640)
TILING = Tiling("fixed", tile_size=TILE, overlap=0.2)
CLASSES = 3
RULES = ("fragment", "nms", "wbf")
REPEATS = 3
SMALLEST_SEEN = 8.0
"""√area in pixels of a view below which the simulated detector sees nothing."""

Raw = tuple[Instances, Int64, Bool]
Merge = Callable[[Raw], Instances]


def border_scene(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Boxes and labels of objects, half of them across the borders of tiles, some of them close together."""
    count = 300
    sides = np.exp(rng.normal(np.log(45), 0.6, count))
    ratio = np.exp(rng.normal(0, 0.3, count))
    wide, high = np.minimum(sides * ratio, 400), np.minimum(sides / ratio, 400)
    centres = rng.uniform((0, 0), (WIDTH, HEIGHT), (count, 2))
    borders = [view.window for view in plan_views(TILING, WIDTH, HEIGHT, scaling=SCALING)[1:]]
    for index in range(0, count, 2):  # onto a border
        x0, y0, x1, y1 = borders[rng.integers(len(borders))]
        edge = rng.integers(4)
        spread = rng.normal(0, 0.3) * (wide[index] if edge % 2 == 0 else high[index])
        centres[index, edge % 2] = (x0, y0, x1, y1)[edge] + spread
    boxes = np.stack(
        [
            centres[:, 0] - wide / 2,
            centres[:, 1] - high / 2,
            centres[:, 0] + wide / 2,
            centres[:, 1] + high / 2,
        ],
        axis=1,
    )
    inside = (boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2:] < (WIDTH, HEIGHT)).all(axis=1)
    found = torch.from_numpy(boxes[inside]).float()
    labels = torch.from_numpy(rng.integers(0, CLASSES, len(found)))
    apart = nms(found, torch.rand(len(found), generator=torch.Generator().manual_seed(0)), 0.3)
    return found[apart], labels[apart]


def look(view: View, boxes: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Instances, Bool]:
    """What a detector of middling quality finds in a view; its boxes that are cut, by side."""
    whole = torch.from_numpy(view.boxes_from_image(boxes.numpy()))
    limits = torch.tensor([*view.size, *view.size], dtype=torch.float32)
    clipped = torch.minimum(whole.clamp(min=0), limits)
    sides = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0)
    share = sides.prod(dim=1) / (whole[:, 2:] - whole[:, :2]).prod(dim=1)
    size = sides.prod(dim=1).sqrt()
    chance = ((size - SMALLEST_SEEN) / 16).clamp(0, 0.97) * (share > 0.15)
    seen = torch.from_numpy(rng.random(len(boxes))).float() < chance
    noise = torch.from_numpy(rng.normal(0, 0.04, (len(boxes), 4))).float() * size[:, None]
    found = torch.minimum((clipped + noise).clamp(min=0), limits)[seen]
    quality = (0.35 + 0.5 * share.sqrt() * (size / 60).clamp(max=1))[seen]
    scores = (quality + torch.from_numpy(rng.normal(0, 0.1, len(found))).float()).clamp(0.05, 0.99)
    cut = cut_sides(found.numpy(), view, width=WIDTH, height=HEIGHT)
    return Instances(view.boxes_to_image(found.numpy()), scores.numpy(), labels[seen].numpy()), cut


def raw_detections(boxes: Tensor, labels: Tensor, rng: np.random.Generator) -> Raw:
    """The detections of all views of a scene."""
    parts = [look(view, boxes, labels, rng) for view in plan_views(TILING, WIDTH, HEIGHT, scaling=SCALING)]
    found = Instances.cat([part for part, _ in parts])
    views = np.concatenate([np.full(len(part), number) for number, (part, _) in enumerate(parts)])
    return found, views, np.concatenate([cut for _, cut in parts])


def judge(found: Instances, raw: Raw, boxes: Tensor, labels: Tensor) -> tuple[int, int, float]:
    """Objects that stand more than once, those that were seen (IoU 0.5) but are lost, and the mean IoU."""

    def overlaps(detections: Instances) -> Tensor:
        same_class = torch.from_numpy(detections.labels)[:, None] == labels
        overlap: Tensor = box_iou(torch.from_numpy(detections.boxes), boxes) * same_class
        return overlap

    matched = torch.full((len(boxes),), -1)
    ious = []
    iou = overlaps(found)
    for number in np.argsort(-found.scores, kind="stable").tolist():
        free = iou[number] * (matched < 0)
        best = int(free.argmax())
        if free[best] >= 0.5:
            matched[best] = number
            ious.append(float(free[best]))
    seen = overlaps(raw[0]).max(dim=0).values >= 0.5
    lost = int((seen & (matched < 0)).sum())
    extra = torch.ones(len(found), dtype=torch.bool)
    extra[matched[matched >= 0]] = False
    found_boxes, found_labels = torch.from_numpy(found.boxes), torch.from_numpy(found.labels)
    common = intersection(found_boxes[:, None], boxes)
    on_object = (
        (common / area(found_boxes)[:, None] > 0.5) & (found_labels[:, None] == labels) & (matched >= 0)
    )
    doubled = int((extra & on_object.any(dim=1)).sum())
    return doubled, lost, float(np.mean(ious))


def ours(rule: Any) -> Merge:
    """One of Tilewise's rules."""
    return lambda raw: merge_detections(*raw, rule=rule, threshold=0.25)


def predictions_of(found: Instances) -> list[Any]:
    """SAHI's objects, one a box."""
    return [
        ObjectPrediction(
            bbox=box, category_id=label, score=score, category_name=str(label), full_shape=[10**6] * 2
        )
        for box, score, label in found
    ]


def by_sahi(postprocess: Callable[[list[Any]], list[Any]], raw: Raw) -> Instances:
    """One of SAHI's ways, to its objects and back."""
    predictions = postprocess(predictions_of(raw[0]))
    return Instances(
        np.array([prediction.bbox.to_xyxy() for prediction in predictions], np.float32).reshape(-1, 4),
        np.array([float(prediction.score.value) for prediction in predictions], np.float32),
        np.array([prediction.category.id for prediction in predictions], np.int64),
    )


def sahis() -> dict[str, Any]:
    """SAHI's postprocessors by name: its default, and its NMS at its own threshold and at ours."""
    if sahi is None:
        return {}
    common = {"class_agnostic": False}
    return {
        "sahi GREEDYNMM IOS 0.5": GreedyNMMPostprocess(0.5, "IOS", **common),
        "sahi NMS IOU 0.5": NMSPostprocess(0.5, "IOU", **common),
        "sahi NMS IOU 0.25": NMSPostprocess(0.25, "IOU", **common),
    }


def quality(scenes: int) -> dict[str, dict[str, float]]:
    """Doubled and lost objects for each 1,000, by way of merging."""
    merges: dict[str, Merge] = {rule: ours(rule) for rule in RULES}
    for name, postprocess in sahis().items():
        merges[name] = partial(by_sahi, postprocess)
    totals = {name: np.zeros(3) for name in merges}
    objects = 0
    for seed in range(scenes):
        rng = np.random.default_rng(seed)
        boxes, labels = border_scene(rng)
        raw = raw_detections(boxes, labels, rng)
        objects += len(boxes)
        for name, merge in merges.items():
            totals[name] += judge(merge(raw), raw, boxes, labels)
    return {
        name: {
            "doubled_per_1000": round(1000 * total[0] / objects, 1),
            "lost_per_1000": round(1000 * total[1] / objects, 1),
            "mean_iou": round(total[2] / scenes, 4),
        }
        for name, total in totals.items()
    }


def many_boxes(count: int) -> Raw:
    """Boxes as many tiles of a large image give them: objects seen by some four views each."""
    rng = np.random.default_rng(0)
    span = 60 * np.sqrt(count)
    centres = np.repeat(rng.uniform(0, span, (count // 4 + 1, 2)), 4, axis=0)[:count] + rng.normal(
        0, 2, (count, 2)
    )
    sides = np.repeat(np.exp(rng.normal(3.5, 0.5, (count // 4 + 1, 2))), 4, axis=0)[:count]
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).astype(np.float32)
    labels = np.repeat(rng.integers(0, CLASSES, count // 4 + 1), 4)[:count]
    found = Instances(boxes, rng.random(count).astype(np.float32), labels)
    return found, np.arange(count) % 4, rng.random((count, 4)) < 0.05


def measured(work: Callable[[], object], limit_s: float) -> dict[str, float | None]:
    """Seconds of a piece of work and of the CPU, the best of three, and memory, in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        before = pages * os.sysconf("SC_PAGE_SIZE")
        seconds = cpu_seconds = math.inf
        for _ in range(REPEATS):
            start, cpu_start = time.perf_counter(), time.process_time()
            work()
            seconds = min(seconds, time.perf_counter() - start)
            cpu_seconds = min(cpu_seconds, time.process_time() - cpu_start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        sender.send(
            {
                "seconds": round(seconds, 4),
                "CPU_seconds": round(cpu_seconds, 4),
                "MB": round(max(0, peak) / 1e6, 1),
            }
        )

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    answer: dict[str, float | None] = {"seconds": None, "CPU_seconds": None, "MB": None}
    if receiver.poll(limit_s):
        answer = receiver.recv()
    process.kill()
    process.join()
    return answer


def scattered(limit_s: float) -> dict[str, dict[str, float | None]]:
    """Time and memory of each rule for 100,000 boxes of 60 views, scattered over 15,000 x 15,000 pixels."""
    raw = scattered_detections(0, 100_000, 15_000.0, views=60)
    return {rule: measured(partial(ours(rule), raw), limit_s) for rule in RULES}


def costs(sizes: list[int], limit_s: float) -> dict[str, dict[str, Any]]:
    """Time and memory by way of merging and number of boxes; SAHI's objects are made beforehand."""
    table: dict[str, dict[str, Any]] = {}
    for count in sizes:
        raw = many_boxes(count)
        for rule in RULES:
            table.setdefault(rule, {})[str(count)] = measured(partial(ours(rule), raw), limit_s)
        for name, postprocess in sahis().items():
            work = partial(postprocess, predictions_of(raw[0]))
            table.setdefault(name, {})[str(count)] = measured(work, limit_s)
    return table


def main() -> None:
    """Measure quality, then costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--limit-s", type=float, default=120)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "sahi": getattr(sahi, "__version__", None),
        "threads": 1,
        "scenes": quality(arguments.scenes),
        "costs": costs(arguments.sizes, arguments.limit_s),
        "scattered_100000": scattered(arguments.limit_s),
        "limit_s": arguments.limit_s,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
