"""Compare predictions with a COCO file's ground truth."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from tilewise.commands.predict import add_source, source
from tilewise.data.annotations import ChannelIssues, make_records
from tilewise.data.classes import in_classes
from tilewise.data.folder import Folder
from tilewise.data.formats.coco import read_coco
from tilewise.evaluation.evaluate import metrics
from tilewise.evaluation.voc import VocMetric
from tilewise.inference.artifact import read_classes
from tilewise.masks import MASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate``."""
    parser.add_argument("coco", type=Path, help="COCO JSON file")
    parser.add_argument("images", type=Path, help="folder of its images")
    parser.add_argument("--iou", type=float, default=0.5, help="IoU threshold of the VOC metric")
    parser.add_argument(
        "--points",
        choices=["11", "all"],
        default="all",
        help="recalls that VOC's mAP averages: all (default; Azure AutoML's) or 11 (the built-in's)",
    )
    add_source(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the metrics as JSON: of masks where both the file and the model have them."""
    content = read_coco(arguments.coco, Folder(arguments.images), masks=True)
    classes = read_classes(arguments.model) if arguments.model else content.classes or ()
    examples = in_classes(content, classes, arguments.coco.name, whose="the model")
    records = make_records(examples, ChannelIssues(arguments.coco.name))
    predict = source(arguments)
    detections = [predict(record.source).detections for record in records]
    if not any(MASKS in each.fields for each in detections):  # a detector's are of boxes
        records = records.with_targets(replace(records.targets, fields={}))
    voc = VocMetric(arguments.iou, arguments.points)
    print(json.dumps(metrics(records, detections, classes, voc=voc), indent=2))
