"""Find objects in images, and draw them."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tilewise.commands.endpoint import ask_endpoint
from tilewise.data.decode import decode_image
from tilewise.errors import UserError
from tilewise.evaluation.draw import draw_detections
from tilewise.inference.artifact import read_classes
from tilewise.inference.predictor import Prediction, Predictor


def add_source(parser: argparse.ArgumentParser) -> None:
    """The options that say who predicts."""
    parser.add_argument("--model", type=Path, help="folder of an unpacked model.tar.gz")
    parser.add_argument(
        "--endpoint", metavar="URL", help="ask this server instead; --model then only names classes"
    )


def source(arguments: argparse.Namespace) -> Callable[[bytes], Prediction]:
    """Who predicts: the endpoint or the model that the options name.

    Raises:
        UserError: they name neither.

    """
    if arguments.endpoint:
        url: str = arguments.endpoint
        return lambda image: ask_endpoint(url, image)
    if not arguments.model:
        raise UserError("give --model DIR or --endpoint URL")
    return Predictor.load(arguments.model).predict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``predict``."""
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument(
        "--out", type=Path, default=Path("."), help="folder for the pictures and the JSON answers"
    )
    parser.add_argument("--threshold", type=float, default=0.4, help="draw detections from this score on")
    add_source(parser)


def run(arguments: argparse.Namespace) -> None:
    """For each image write ``<name>-detections.json`` with all, and ``….png`` with those that pass drawn.

    Raises:
        UserError: two images have the same name, so that one picture would replace the other.

    """
    counts = Counter(path.stem for path in arguments.images)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise UserError(f"several images are named {', '.join(twice)}: give them one by one")
    predict = source(arguments)
    classes = read_classes(arguments.model) if arguments.model else None
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.images:
        image = path.read_bytes()
        found = predict(image).detections
        names = classes or tuple(str(label) for label in range(max(found.labels.tolist(), default=-1) + 1))
        drawn = found[found.scores >= arguments.threshold]
        picture = arguments.out / f"{path.stem}-detections.png"
        draw_detections(decode_image(image), drawn, names).save(picture)
        answer = {
            "image": path.name,
            "classes": names,
            "boxes": found.boxes.tolist(),
            "scores": found.scores.tolist(),
            "labels": found.labels.tolist(),
        }
        picture.with_suffix(".json").write_text(json.dumps(answer), encoding="utf-8")
        passed = f"{len(drawn)} of {len(found)} detections score {arguments.threshold:g} or more"
        print(f"{picture}: {passed}")
