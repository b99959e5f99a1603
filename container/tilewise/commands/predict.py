"""Find objects in images, or say which classes they show, and draw it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tilewise.arrays import Array
from tilewise.commands.endpoint import ask_endpoint
from tilewise.commands.geojson import to_geojson
from tilewise.commands.unlabelled import (
    CLASSES_PICTURE,
    DETECTIONS_PICTURE,
    check_place,
    find_images,
    predict_each,
)
from tilewise.data.decoding.decode import decode_reduced
from tilewise.data.decoding.geotiff import read_georeference
from tilewise.errors import UserError
from tilewise.evaluation.draw import draw_detections
from tilewise.inference.artifact import read_classes
from tilewise.inference.description import ModelDescription
from tilewise.inference.model_card import DEFAULT_THRESHOLD, ModelCard
from tilewise.inference.score_calibration import ScoreCalibration
from tilewise.inference.tile_options import read_tile_options
from tilewise.inference.two_stages import ClassifiesCrops, FindsObjects, load_predictor
from tilewise.instances import Instances
from tilewise.machine import OF_VIEWS, keep_freed_memory
from tilewise.masks import masks_in
from tilewise.rasters import text_of
from tilewise.registry import find_task
from tilewise.tasks.answers import Answered
from tilewise.tasks.classification.answers import SHOWN, ClassificationAnswers
from tilewise.tasks.classification.prediction import ClassScores
from tilewise.tiling.spec import AS_TRAINED
from tilewise.views.rendering import AS_STORED, Rendering
from tilewise.views.view import View

PICTURE_SIDE = 8192
"""Pixels of the longer side of a picture; larger images are reduced for it."""

TILE_ARGUMENTS = {
    "tile_grid_size": ("3x2", "columns x rows, or none for the whole image alone"),
    "tile_size": ("PIXELS", "tiles of this size instead of a grid"),
    "tile_overlap_ratio": ("0.25", "share of a tile that neighbours have in common"),
    "tile_merge": ("RULE", "fragment, nms or wbf"),
    "tile_predictions_nms_threshold": ("0.25", "IoU above which boxes of two views are one object"),
    "tta": ("mirror", "look at each view mirrored, too, and merge what both show; none: not"),
}


def add_source(parser: argparse.ArgumentParser) -> None:
    """The options that say who predicts."""
    parser.add_argument("--model", type=Path, help="folder of an unpacked model.tar.gz")
    parser.add_argument(
        "--endpoint", metavar="URL", help="ask this server instead; --model then only names classes"
    )
    tiles = parser.add_argument_group(
        "tiles", "in place of the model's own; as the hyperparameters of that name"
    )
    for name, (values, text) in TILE_ARGUMENTS.items():
        tiles.add_argument(_option(name), metavar=values, default="", help=text)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def source(
    arguments: argparse.Namespace, most: int | None = None, *, classifies: bool = False
) -> Callable[[bytes | Path], Any]:
    """Who predicts: the endpoint or the model that the options name.

    Args:
        arguments: the options.
        most: detections of an image; None for as many as the model was trained with, or the endpoint returns.
        classifies: whether a model may say which classes an image shows, and finds no objects.

    Raises:
        UserError: they name neither, or tiles that cannot be had.

    """
    tiles = read_tile_options({name: getattr(arguments, name) for name in TILE_ARGUMENTS}, _option)
    if arguments.endpoint and most is not None:
        raise UserError(
            "--max-detections goes with --model: an endpoint returns what its model was trained for"
        )
    if arguments.endpoint and tiles != AS_TRAINED:
        raise UserError(
            "an endpoint has its own tiles: start it with TILEWISE_TILE_GRID_SIZE=3x2, for instance"
        )
    if arguments.endpoint:
        url: str = arguments.endpoint
        return lambda image: ask_endpoint(url, image if isinstance(image, bytes) else image.read_bytes())
    if not arguments.model:
        raise UserError("give --model DIR or --endpoint URL")
    task = ModelDescription.read(arguments.model).task
    finds = isinstance(find_task(task)(), FindsObjects)
    if not finds and not (classifies and isinstance(find_task(task)(), ClassifiesCrops)):
        raise UserError(
            f"{arguments.model} is a model for task={task}, which finds no objects to draw: serve it, "
            "or take Predictor.load of Python"
        )
    if not finds and most is not None:
        raise UserError(
            f"--max-detections: {arguments.model} is a model for task={task}, which finds no objects"
        )
    keep_freed_memory(OF_VIEWS)
    predictor = load_predictor(arguments.model, tiles)
    if most is not None:
        merge: Any = predictor.merge  # a detector's
        predictor.merge = partial(merge, limit=most)
    return predictor.predict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``predict``."""
    parser.add_argument("images", nargs="+", type=Path, help="files, or folders of images")
    parser.add_argument(
        "--out", type=Path, default=Path("."), help="folder for the pictures and the JSON answers"
    )
    parser.add_argument(
        "--max-detections", type=int, metavar="N", help="of an image; default: as the model was trained with"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="draw detections from this score on; default: what the model recommends for each class, or "
        f"{DEFAULT_THRESHOLD}",
    )
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="scores as the model's validation has shown what they mean: of 100 detections that score 0.8, "
        "80 are right",
    )
    add_source(parser)


def run(arguments: argparse.Namespace) -> None:
    """For each image write ``<name>-detections.json`` with all, and ``….png`` with those that pass drawn.

    A classifier's are ``<name>-classes.json``, with the score of each class, and ``….png``. A GeoTIFF
    also gets ``….geojson``, with all of them in its own coordinates. A damaged image is named and left out.

    Raises:
        UserError: two images have the same name, so that one picture would replace the other, an option is
            out of its range, or no image can be read.

    """
    images = [image for path in arguments.images for image in find_images([path]).values()]
    counts = Counter(path.stem for path in images)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise UserError(f"several images are named {', '.join(twice)}: give them one by one")
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise UserError(f"--threshold {arguments.threshold}: a score is a number from 0 to 1")
    if arguments.max_detections is not None and arguments.max_detections < 1:
        raise UserError(f"--max-detections {arguments.max_detections}: give a number from 1 on")
    check_place(arguments.out, folder=True)
    predict = source(arguments, arguments.max_detections, classifies=True)
    model = ModelDescription.read(arguments.model) if arguments.model else None
    classes = read_classes(arguments.model) if arguments.model else None
    rendering = model.spec.rendering if model else AS_STORED
    card = ModelCard.read(arguments.model) if arguments.model else ModelCard()
    calibration = _calibration(arguments, card)
    by_name = {path.name: path for path in images}
    for name, found in predict_each(by_name, predict):
        path = by_name[name]
        if isinstance(found, ClassScores):
            _write_classes(arguments.out, path, found, classes, rendering)
            continue
        if calibration:
            found = found.rescored(calibration)
        detections = found.detections
        largest = max(detections.labels.tolist(), default=-1)
        names = classes or tuple(str(label) for label in range(largest + 1))
        lowest = np.array([_lowest_score(arguments, card, name, calibration) for name in names or ("",)])
        confident = detections.select(detections.scores >= lowest[detections.labels])
        picture = arguments.out / f"{path.stem}{DETECTIONS_PICTURE}"
        pixels, shown = _picture_of(path, confident, rendering)
        draw_detections(pixels, shown, names).save(picture)
        answer = {
            "image": path.name,
            "classes": names,
            "boxes": detections.boxes.tolist(),
            "scores": detections.scores.tolist(),
            "labels": detections.labels.tolist(),
        }
        if (masks := masks_in(detections.fields)) is not None:
            answer["segmentation"] = [text_of(each) for each in masks.encoded(found.width, found.height)]
        picture.with_suffix(".json").write_text(json.dumps(answer), encoding="utf-8")
        reference = read_georeference(path)
        if reference:
            places = to_geojson(detections, names, reference)
            picture.with_suffix(".geojson").write_text(json.dumps(places), encoding="utf-8")
        if model and len(detections) == model.spec.detections_per_image and arguments.max_detections is None:
            print(
                f"{path.name}: {len(detections)} detections, as many as the model keeps of an image: "
                "--max-detections keeps more"
            )
        scores = " to ".join(f"{score:.2g}" for score in sorted({float(lowest.min()), float(lowest.max())}))
        print(f"{picture}: {len(confident)} of {len(detections)} detections score {scores} or more")


def _lowest_score(
    arguments: argparse.Namespace, card: ModelCard, name: str, calibration: ScoreCalibration | None
) -> float:
    """From which on detections of a class are drawn. What a model recommends is of its own scores."""
    if arguments.threshold is not None:
        return float(arguments.threshold)
    recommended = np.array(card.recommended([name]))
    return float((calibration(recommended) if calibration else recommended)[0])


def _write_classes(
    out: Path, path: Path, found: ClassScores, classes: tuple[str, ...] | None, rendering: Rendering
) -> None:
    names = classes or tuple(str(label) for label in range(len(found.scores)))
    picture = out / f"{path.stem}{CLASSES_PICTURE}"
    pixels, _ = _picture_of(path, Instances.none(), rendering)
    ClassificationAnswers().draw(pixels, Answered(found, names)).save(picture)
    answer = {"image": path.name, "classes": names, "scores": found.scores.tolist()}
    picture.with_suffix(".json").write_text(json.dumps(answer), encoding="utf-8")
    best = np.argsort(-found.scores, kind="stable")[:SHOWN]
    print(f"{picture}: {', '.join(f'{names[label]} {found.scores[label]:.2f}' for label in best)}")


def _calibration(arguments: argparse.Namespace, card: ModelCard) -> ScoreCalibration | None:
    if not arguments.calibrated:
        return None
    if not arguments.model:
        raise UserError("--calibrated goes with --model: its model.json says what the scores mean")
    if card.calibration is None:
        raise UserError(
            f"--calibrated: nothing calibrates the scores of {arguments.model}, which takes a training with "
            "enough validation images"
        )
    return card.calibration


def _picture_of(path: Path, detections: Instances, rendering: Rendering) -> tuple[Array, Instances]:
    """An image's pixels, reduced to :data:`PICTURE_SIDE` where it is larger, and the detections in them."""
    image = decode_reduced(path, lambda *_: 1, rendering=rendering)
    scale = min(1.0, PICTURE_SIDE / max(image.width, image.height))
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    view = View((0, 0, image.width, image.height), size)
    shown = detections.crop(view.window, size)
    return np.moveaxis(image.show(view), 2, 0), shown
