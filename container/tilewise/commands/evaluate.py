"""Compare predictions with a COCO file's ground truth."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tilewise.commands.predict import add_source, source
from tilewise.data.annotations import Report, make_records
from tilewise.data.channel import in_classes
from tilewise.data.coco import read_coco
from tilewise.errors import UserError
from tilewise.evaluation.evaluate import metrics
from tilewise.inference.artifact import read_classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``evaluate``."""
    parser.add_argument("coco", type=Path, help="COCO JSON file")
    parser.add_argument("images", type=Path, help="folder of its images")
    parser.add_argument("--iou", type=float, default=0.5, help="IoU threshold of the VOC metric")
    add_source(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the metrics as JSON."""
    content = read_coco(arguments.coco, arguments.images)
    classes = read_classes(arguments.model) if arguments.model else content.classes
    examples = in_classes(content.examples, content.classes, classes)
    unknown = {content.classes[index] for index in content.used} - set(classes)
    if unknown:
        raise UserError(
            f"{arguments.coco.name} has objects of classes that the model does not know: {unknown}"
        )
    records = make_records(examples, Report(arguments.coco.name))
    predict = source(arguments)
    detections = [predict(record.read()).detections for record in records]
    print(json.dumps(metrics(records, detections, classes, arguments.iou), indent=2))
