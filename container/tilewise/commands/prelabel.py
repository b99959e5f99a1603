"""Label images by a model, for a labelling tool in which people correct them."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilewise.commands.predict import add_source, source
from tilewise.commands.unlabelled import check_place, find_images, predict_each
from tilewise.errors import UserError
from tilewise.inference.artifact import read_classes
from tilewise.inference.description import ModelDescription
from tilewise.inference.model_card import ModelCard
from tilewise.tasks.answers import Answered, Answers, Threshold, answers_of
from tilewise.tasks.detection.forms import compact

TOOLS = {
    "manifest": "SageMaker Ground Truth: the input of an adjustment job (needs --prefix s3://…)",
    "label-studio": "Label Studio: tasks with predictions",
    "cvat": "CVAT 1.1 for images: annotations to upload to a task of these images",
    "coco": "COCO: a whole file with images, categories and annotations",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``prelabel``."""
    parser.add_argument("images", nargs="+", type=Path, help="files, or folders of images")
    parser.add_argument("--to", required=True, choices=TOOLS, help="; ".join(map(": ".join, TOOLS.items())))
    parser.add_argument("--out", required=True, type=Path, help="the file to write")
    parser.add_argument(
        "--threshold",
        type=float,
        help="the lowest score; default: for each class what the model recommends, else 0.4",
    )
    parser.add_argument(
        "--prefix", default="", help="goes before each name: where the tool finds it, as s3://bucket/images/"
    )
    add_source(parser)


def run(arguments: argparse.Namespace) -> None:
    """Predict each image and write one file.

    Raises:
        UserError: no classes are known, the file exists or cannot be written, a manifest has no addresses,
            or no image can be read.

    """
    if not arguments.model:
        raise UserError("give --model DIR: it names the classes, also where --endpoint predicts")
    if arguments.to == "manifest" and not arguments.prefix.startswith("s3://"):
        raise UserError("a manifest names images by their address in S3: give --prefix s3://bucket/folder/")
    if arguments.out.exists():
        raise UserError(f"{arguments.out} exists: it may hold corrected labels, so give another --out")
    check_place(arguments.out)
    model, classes = ModelDescription.read(arguments.model), read_classes(arguments.model)
    answers = answers_of(model.task)
    if arguments.to not in answers.forms:
        raise UserError(f"--to {arguments.to}: a model of task {model.task} has no such form")
    threshold = _threshold(arguments, classes)
    count = Counter[str]()

    def label() -> Iterator[Answered]:
        predicted = predict_each(find_images(arguments.images), source(arguments))
        for number, (name, prediction) in enumerate(predicted, start=1):
            kept = answers.choose(prediction, threshold=threshold, labels=None, most=None)
            count.update(images=1, objects=len(kept.detections))
            yield Answered(kept, classes, name=arguments.prefix + name, number=number)

    if arguments.to == "manifest":  # a line an image, written when it is found: there may be millions
        texts: Iterator[str] = (answers.forms["manifest"].render([one]) for one in label())
    elif arguments.to == "coco":
        texts = iter([coco_file(list(label()), answers)])
    else:
        texts = iter([answers.forms[arguments.to].render(list(label()))])
    first = next(texts)  # where no image can be read, no file is left
    with arguments.out.open("x", encoding="utf-8") as file:
        file.write(first)
        file.writelines(texts)
    print(
        f"{arguments.out}: {count['images']} images, {count['objects']} objects from a score of "
        f"{_shown(threshold)} on"
    )


def _threshold(arguments: argparse.Namespace, classes: tuple[str, ...]) -> Threshold:
    if arguments.threshold is not None:
        if not 0 <= arguments.threshold <= 1:
            raise UserError(f"--threshold {arguments.threshold}: a score is a number from 0 to 1")
        return float(arguments.threshold)
    return ModelCard.read(arguments.model).recommended(classes)


def _shown(threshold: Threshold) -> str:
    """One score, or the least and the largest of the classes."""
    scores = [threshold] if isinstance(threshold, float) else threshold
    ends = [f"{end:.2f}" for end in (min(scores), max(scores))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}, by class,"


def coco_file(images: Sequence[Answered], answers: Answers) -> str:
    """A whole COCO file, as labelling tools import it; categories count from 1."""
    # without names their ids are their numbers
    unnamed = [replace(answered, name="") for answered in images]
    rows: list[dict[str, Any]] = json.loads(answers.forms["coco"].render(unnamed))
    for number, row in enumerate(rows, start=1):
        row.pop("category_name", None)
        _, _, width, height = row["bbox"]
        row |= {"id": number, "iscrowd": 0, "area": width * height}
    return compact(
        {
            "images": [
                {"id": one.number, "file_name": one.file_name, "width": one.width, "height": one.height}
                for one in images
            ],
            "categories": [
                {"id": label, "name": name}
                for label, name in enumerate(images[0].classes if images else (), start=1)
            ],
            "annotations": rows,
        }
    )
