"""List likely label errors of a channel: where a model is sure and the labels say otherwise."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tilewise.commands.predict import add_source, source
from tilewise.commands.unlabelled import check_place, predict_each
from tilewise.data.decoding.decode import DecodedImage, DecodeError, decode_reduced
from tilewise.data.read import read_channel
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.evaluation.label_errors import LabelError, label_errors
from tilewise.evaluation.report import report_template
from tilewise.inference.artifact import read_classes
from tilewise.inference.description import ModelDescription
from tilewise.inference.model_card import ModelCard
from tilewise.registry import find_task
from tilewise.tasks.detection.task import DetectionTask
from tilewise.views.rendering import Rendering
from tilewise.views.view import View, Window

TOP = 200
SIDE = 320
"""Pixels of a picture's longer side."""
AROUND = 1.5
"""So many sides of the object are shown beside it, and at least :data:`LEAST` pixels of the image."""
LEAST = 24
ANNOTATED, FOUND = (255, 212, 0), (0, 213, 255)
COLUMNS = (
    "place", "image", "kind", "suspicion", "class", "xmin", "ymin", "xmax", "ymax",
    "found_class", "found_score", "found_xmin", "found_ymin", "found_xmax", "found_ymax", "picture",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``errors``."""
    parser.add_argument("data", type=Path, help="the channel's folder, in any format")
    parser.add_argument(
        "--annotations", type=Path, help="folder or file of the annotations, where they are elsewhere"
    )
    parser.add_argument("--out", required=True, type=Path, help="a folder that is not there yet, or empty")
    parser.add_argument("--top", type=int, default=TOP, metavar="N", help=f"so many; default {TOP}")
    add_source(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write ``errors.csv``, ``errors.html`` and their pictures, and count the kinds.

    Raises:
        UserError: there is no model or it is no detector, the folder has files, the channel cannot be read or
            has other classes than the model, or no image can be read.

    """
    if not arguments.model:
        raise UserError("give --model DIR: it names the classes, also where --endpoint predicts")
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top}: give a number from 1 on")
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        raise UserError(f"{arguments.out} is not an empty folder: give another --out")
    check_place(arguments.out, folder=True)
    task = ModelDescription.read(arguments.model).task
    if not issubclass(find_task(task), DetectionTask):
        raise UserError(
            f"{arguments.model} holds a model of task {task}: errors looks for wrong labels of objects, and "
            "takes a detector"
        )
    classes = read_classes(arguments.model)
    channel = read_channel(arguments.data, arguments.annotations, classes=classes)
    by_key = {record.key: record for record in channel.records}
    predict, calibration = source(arguments), ModelCard.read(arguments.model).calibration
    records, detections = [], []
    for key, prediction in predict_each({key: one.source for key, one in by_key.items()}, predict):
        records.append(by_key[key])
        detections.append((prediction.rescored(calibration) if calibration else prediction).detections)
    errors = label_errors(Records(records), detections)[: arguments.top]
    rendering = ModelDescription.read(arguments.model).spec.rendering
    rows = _write(errors, records, classes, rendering, arguments.out)
    kinds = sorted({error.kind for error in errors})
    counts = ", ".join(f"{sum(error.kind == kind for error in errors)} {kind}" for kind in kinds)
    print(f"{arguments.out}/errors.html: {len(rows)} likely errors ({counts or 'none'})")


def _write(
    errors: Sequence[LabelError],
    records: Sequence[Record],
    classes: tuple[str, ...],
    rendering: Rendering,
    out: Path,
) -> list[dict[str, Any]]:
    (out / "pictures").mkdir(parents=True)
    rows = [_row(place, each, records[each.record], classes) for place, each in enumerate(errors, start=1)]
    image: DecodedImage | None = None
    shown, note = -1, ""
    # image by image, so that each is decoded once
    for number in sorted(range(len(errors)), key=lambda number: errors[number].record):
        error = errors[number]
        if error.record != shown:
            shown, image, note = error.record, *_decoded(records[error.record], rendering)
        rows[number] |= {"picture": "", "note": note}
        if image is not None:
            rows[number]["picture"] = f"pictures/{number + 1:04}.jpg"
            _draw(error, image).save(out / rows[number]["picture"], quality=88)
    with (out / "errors.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    page = report_template("evaluation/label_errors.html.j2").render(
        name=out.name, rows=rows, images=len(records), boxes=sum(len(each.targets) for each in records)
    )
    (out / "errors.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    return rows


def _row(place: int, error: LabelError, record: Record, classes: tuple[str, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "place": place,
        "image": record.key,
        "kind": error.kind,
        "suspicion": round(error.suspicion, 4),
        "text": _text(error, classes),
    }
    if error.box is not None and error.label is not None:
        sides = (round(float(side), 2) for side in error.box)
        row |= {"class": classes[error.label], **dict(zip(COLUMNS[5:9], sides, strict=True))}
    row["found_score"] = round(error.score, 4)
    if error.found is not None and error.found_label is not None:
        sides = (round(float(side), 2) for side in error.found)
        row |= {"found_class": classes[error.found_label], **dict(zip(COLUMNS[11:15], sides, strict=True))}
    return row


def _text(error: LabelError, classes: tuple[str, ...]) -> str:
    label = "" if error.label is None else classes[error.label]
    found = "" if error.found_label is None else f"{classes[error.found_label]} {error.score:.2f}"
    if error.kind == "no box":
        return f"no box: {found}"
    if error.kind == "nothing there":
        return f"{label}: nothing there"
    return f"{label}: rather {found}" if error.kind == "other class" else f"{label}: rather here, {found}"


def _decoded(record: Record, rendering: Rendering) -> tuple[DecodedImage | None, str]:
    try:
        return decode_reduced(record.source, lambda *_: 1, rendering=rendering), ""
    except (DecodeError, OSError) as error:
        return None, f"the image cannot be read any more: {error}"


def _draw(error: LabelError, image: DecodedImage) -> Image.Image:
    """What is around the object, with the boxes."""
    boxes = [box for box in (error.box, error.found) if box is not None]
    window = _window(np.array(boxes), image.width, image.height)
    left, top, right, bottom = window
    zoom = SIDE / max(right - left, bottom - top)
    size = max(1, round(zoom * (right - left))), max(1, round(zoom * (bottom - top)))
    picture = Image.fromarray(image.show(View(window, size)))
    canvas = ImageDraw.Draw(picture)
    for box, colour in ((error.found, FOUND), (error.box, ANNOTATED)):
        if box is not None:
            corners = zoom * (box - np.array([left, top, left, top]))
            canvas.rectangle(corners.tolist(), outline=colour, width=2)
    return picture


def _window(boxes_N4: np.ndarray, width: int, height: int) -> Window:
    low, high = boxes_N4[:, :2].min(axis=0), boxes_N4[:, 2:].max(axis=0)
    around = np.maximum(AROUND * (high - low).max(), LEAST)
    left, top = np.floor(low - around).astype(int).tolist()
    right, bottom = np.ceil(high + around).astype(int).tolist()
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, max(min(right, width), left + 1), max(min(bottom, height), top + 1)
