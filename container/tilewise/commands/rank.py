"""Order unlabelled images by what a label of each would teach the model."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from tilewise.commands.unlabelled import check_place, find_images, predict_each
from tilewise.errors import UserError
from tilewise.inference.description import ModelDescription
from tilewise.inference.predictor import Predictor
from tilewise.machine import OF_VIEWS, keep_freed_memory
from tilewise.registry import find_task
from tilewise.tasks.detection.active_learning import disagreement, most_informative_first, score_entropy
from tilewise.tasks.detection.forms import json_line
from tilewise.tasks.detection.task import DetectionTask
from tilewise.tiling.spec import TileOptions

GRID = (2, 2)
"""The tiles beside the whole image, for a model that was trained without any."""

MEASURES = ("entropy", "disagreement")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``rank``."""
    parser.add_argument("images", nargs="+", type=Path, help="files, or folders of images")
    parser.add_argument("--model", required=True, type=Path, help="folder of an unpacked model.tar.gz")
    parser.add_argument("--out", required=True, type=Path, help="the table to write, as CSV, the best first")
    parser.add_argument(
        "--by",
        choices=(*MEASURES, "both"),
        default="both",
        help="entropy: how unsure its scores are; disagreement: how differently tiles and the whole image "
        "are seen; both: the mean of the places by each",
    )
    parser.add_argument("--top", type=int, metavar="N", help="write only the first N")
    parser.add_argument(
        "--s3-prefix",
        metavar="s3://BUCKET/PATH",
        help="where the images lie in S3: beside OUT is a .manifest then, the input of a labelling job",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the images with both measures, and name the first.

    Raises:
        UserError: the model is no detector, no image can be read, an option is wrong, or the table cannot be
            written.

    """
    if arguments.top is not None and arguments.top < 1:
        raise UserError(f"--top {arguments.top}: give a number from 1 on")
    prefix = arguments.s3_prefix
    if prefix and not prefix.startswith("s3://"):
        raise UserError(f"--s3-prefix {prefix}: give an address of a folder in S3, s3://bucket/path")
    task = ModelDescription.read(arguments.model).task
    if not issubclass(find_task(task), DetectionTask):
        raise UserError(f"{arguments.model} holds a model of task {task}: rank orders images for a detector")
    check_place(arguments.out)
    manifest = arguments.out.with_suffix(".manifest")
    if prefix and manifest == arguments.out:
        raise UserError(
            f"--out {arguments.out}: the manifest beside the table has this name, so give another"
        )
    keep_freed_memory(OF_VIEWS)
    usual = Predictor.load(arguments.model)
    tiled = usual.plan.tiling.kind != "whole"
    other = usual.seen_as(TileOptions(tiled=False) if tiled else TileOptions(grid=GRID))

    def measure(path: Path) -> dict[str, Any]:
        found = usual.predict(path).detections
        return {
            "entropy": score_entropy(found),
            "disagreement": disagreement(found, other.predict(path).detections),
            "detections": len(found),
        }

    rows = [{"image": name} | row for name, row in predict_each(find_images(arguments.images), measure)]
    chosen = MEASURES if arguments.by == "both" else (arguments.by,)
    order = most_informative_first([[row[name] for row in rows] for name in chosen])[: arguments.top]
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["place", "image", *MEASURES, "detections"])
        writer.writeheader()
        for place, index in enumerate(order, start=1):
            row = rows[index] | {name: f"{rows[index][name]:.6g}" for name in MEASURES}
            writer.writerow({"place": place} | row)
    if prefix:
        lines = ({"source-ref": f"{prefix.rstrip('/')}/{rows[index]['image']}"} for index in order)
        manifest.write_text("".join(json_line(line) for line in lines), encoding="utf-8")
    print(f"{arguments.out}: {len(order)} of {len(rows)} images, the first is {rows[order[0]]['image']}")
