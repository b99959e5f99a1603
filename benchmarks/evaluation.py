"""COCO's figures of many boxes, beside pycocotools on the same detections: prints a JSON line for each case.

python benchmarks/evaluation.py NUCLEI [--cases …]

NUCLEI is a folder with COCO's files train.json and val.json. The objects are theirs, or 3,300 in one image;
the detections lie beside them, twice as many, or 3,795. pycocotools computes what Tilewise logs: AP and AR
over all detections, for seven ranges of sizes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "tests")]

from reference_coco import pycocotools_evaluation  # noqa: E402
from tilewise.data.records import Record, Records  # noqa: E402
from tilewise.evaluation.analysis import Scored, analyse  # noqa: E402
from tilewise.evaluation.coco import RANGES, coco_metrics  # noqa: E402
from tilewise.evaluation.evaluate import metrics  # noqa: E402
from tilewise.instances import Instances  # noqa: E402
from tilewise.targets import Targets  # noqa: E402

CLASSES = ("object",)


def nuclei(folder: Path) -> Scored:
    """All images of both files, and twice as many detections as objects."""
    truth = []
    for name in ("train.json", "val.json"):
        content = json.loads((folder / name).read_text())
        boxes = defaultdict(list)
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            boxes[annotation["image_id"]].append((x, y, x + width, y + height))
        truth += [
            (image["width"], image["height"], np.array(boxes[image["id"]], np.float32).reshape(-1, 4))
            for image in content["images"]
        ]
    return scored(truth, 1.0)


def one_image() -> Scored:
    """3,300 objects of 5 px in one image of 400 px, and 3,795 detections."""
    grid = [(6 * x, 6 * y, 6 * x + 5, 6 * y + 5) for x in range(60) for y in range(55)]
    return scored([(400, 400, np.array(grid, np.float32))], 0.15)


def scored(truth: list[tuple[int, int, np.ndarray]], more: float) -> Scored:
    """Each object is found, half a pixel beside its place, and a share of them once more."""
    rng = np.random.default_rng(0)
    records, detections = [], []
    for width, height, boxes in truth:
        none = np.zeros(len(boxes), np.int64)
        targets = Targets(boxes, none, none.astype(np.bool_))
        records.append(Record("image", Path("image"), width, height, targets))
        near = np.concatenate([boxes, boxes[: int(more * len(boxes))]])
        near = rng.permutation(near + rng.normal(0, 0.5, near.shape))
        scores = np.sort(rng.random(len(near)))[::-1].copy()
        labels = np.zeros(len(near), np.int64)
        detections.append(Instances(near.astype(np.float32), scores.astype(np.float32), labels))
    return Scored(Records(records), detections)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it takes, and what it gives."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare(name: str, case: Scored) -> dict[str, Any]:
    """Both, and what a validation and a report compute in all."""
    records, detections = case.records, case.detections
    ours, figures = seconds(lambda: coco_metrics(records, detections, CLASSES))
    whole, complete = seconds(lambda: metrics(records, detections, CLASSES))
    report, _ = seconds(lambda: analyse(case, CLASSES, complete))
    theirs, evaluation = seconds(lambda: pycocotools_evaluation(records, detections, CLASSES, RANGES))
    precision = evaluation.eval["precision"][..., 0, 0]
    return {
        "case": name,
        "images": len(records),
        "objects": len(records.targets),
        "detections": sum(map(len, detections)),
        "tilewise_s": round(ours, 3),
        "pycocotools_s": round(theirs, 3),
        "times_as_fast": round(theirs / ours, 1),
        "with_VOC_s": round(whole, 3),
        "report_analysis_s": round(report, 3),
        "AP_differs_by": abs(float(precision[precision > -1].mean()) - figures["AP"]),
    }


def main() -> int:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("nuclei", type=Path)
    parser.add_argument(
        "--cases", nargs="+", choices=["nuclei", "one_image"], default=["nuclei", "one_image"]
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.cases:
        case = nuclei(arguments.nuclei) if name == "nuclei" else one_image()
        print(json.dumps(compare(name, case)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
