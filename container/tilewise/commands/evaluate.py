"""Compare predictions with the ground truth of annotated images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilewise.commands.channels import checked_records
from tilewise.commands.predict import add_source, source
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.checks import make_records
from tilewise.data.classes import ClassIds, in_classes
from tilewise.data.decoding.decode import DecodeError
from tilewise.data.files.folder import Folder
from tilewise.data.formats.coco import read_coco
from tilewise.data.read import read_annotated
from tilewise.data.records import Records
from tilewise.errors import UserError
from tilewise.evaluation.evaluate import metrics
from tilewise.evaluation.voc import VocMetric
from tilewise.inference.artifact import read_classes
from tilewise.inference.description import ModelDescription
from tilewise.masks import MASKS
from tilewise.registry import find_task
from tilewise.tasks.classification.analysis import ScoredImages
from tilewise.tasks.classification.task import ClassificationTask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate``."""
    parser.add_argument(
        "coco",
        type=Path,
        help="COCO JSON file; of a classifier the file of labels, or once more the folder of its images",
    )
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
    task = find_task(ModelDescription.read(arguments.model).task)() if arguments.model else None
    if isinstance(task, ClassificationTask):
        print(json.dumps(_of_classes(arguments, task), indent=2))
        return
    if not 0 < arguments.iou <= 1:
        raise UserError(f"--iou {arguments.iou}: give a number above 0, and at most 1")
    content = read_coco(arguments.coco, Folder(arguments.images), masks=True)
    classes = read_classes(arguments.model) if arguments.model else content.classes or ()
    examples = in_classes(content, classes, arguments.coco.name, whose="the model")
    issues = ChannelIssues(arguments.coco.name)
    records, predictions = _predicted(make_records(examples, issues), source(arguments), issues)
    detections = [prediction.detections for prediction in predictions]
    if not any(MASKS in each.fields for each in detections):  # a detector's are of boxes
        records = records.with_targets(replace(records.targets, fields={}))
    voc = VocMetric(arguments.iou, arguments.points)
    print(json.dumps(metrics(records, detections, classes, voc=voc), indent=2))


def _of_classes(arguments: argparse.Namespace, task: ClassificationTask) -> dict[str, Any]:
    """The figures of a classifier."""
    for path in (arguments.coco, arguments.images):
        if not path.exists():
            raise UserError(f"{path} is not there")
    name, classes = arguments.images.resolve().name, read_classes(arguments.model)
    annotations = None if arguments.coco.resolve() == arguments.images.resolve() else arguments.coco
    parsed = read_annotated(name, arguments.images, annotations, fields=task.target_fields)
    if parsed.classes is None:
        ids = ClassIds(len(classes))
        parsed = replace(parsed, examples=[ids.to_labels(each, name) for each in parsed.examples])
    issues = ChannelIssues(name, image_labels=True)
    records = checked_records(parsed, classes, issues, whose="the model")
    scored = ScoredImages(*_predicted(records, source(arguments, classifies=True), issues))
    return task.figures(scored, classes)


def _predicted(
    records: Records, predict: Callable[[bytes | Path], Any], issues: ChannelIssues
) -> tuple[Records, list[Any]]:
    """The records whose images can be decoded, and what is said of each; the others are named.

    Raises:
        UserError: too many images are damaged.

    """
    kept, predictions = [], []
    for record in records:
        try:
            predictions.append(predict(record.source))
            kept.append(record)
        except DecodeError as error:
            issues.leave_out(record.key, str(error))
    return Records(kept), predictions
