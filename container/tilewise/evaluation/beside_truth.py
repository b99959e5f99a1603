"""A few images with their ground truth on the left, and what a model found on the right."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tilewise.arrays import Array
from tilewise.data.decoding.decode import DecodeError, decode_reduced
from tilewise.data.records import Record
from tilewise.evaluation.analysis import Scored
from tilewise.evaluation.draw import draw_detections
from tilewise.instances import Instances
from tilewise.views.rendering import Rendering
from tilewise.views.view import View

COUNT = 4
"""So many images."""

MAX_SIDE = 640
"""Pixels of the longer side of each half."""

MAX_PIXELS = 25_000_000
"""Larger images are left out: to decode them would hold the job up."""

SCORE = 0.3
"""Detections are drawn from this score on, so that pictures of two epochs can be compared."""


def pictures_beside_truth(
    scored: Scored, classes: tuple[str, ...], rendering: Rendering
) -> dict[str, Image.Image]:
    """Pictures by their tag, of images at regular distances among those that have an object.

    An image that came through a pipe and was not kept has none.
    """
    records = scored.records
    usable = [
        index
        for index, record in enumerate(records)
        if record.path.is_file()
        and record.width * record.height <= MAX_PIXELS
        and not record.targets.ignored.all()
    ]
    count = min(COUNT, len(usable))
    chosen = [usable[place * len(usable) // count] for place in range(count)]
    pictures = {}
    for index in chosen:
        record = records[index]
        try:
            pictures[f"validation/{record.key}"] = _beside(
                record, scored.detections[index], classes, rendering
            )
        except (DecodeError, OSError):
            continue  # it is counted and named where it is validated
    return pictures


def _beside(record: Record, found: Instances, classes: tuple[str, ...], rendering: Rendering) -> Image.Image:
    scale = min(1.0, MAX_SIDE / max(record.width, record.height))
    size = max(1, round(scale * record.width)), max(1, round(scale * record.height))
    window = (0, 0, record.width, record.height)
    image = decode_reduced(record.source, lambda *_: max(1, int(1 / scale)), rendering=rendering)
    pixels: Array = np.moveaxis(image.show(View(window, size)), 2, 0)
    truth = record.targets.select(~record.targets.ignored)
    annotated = Instances(truth.boxes, np.ones(len(truth.labels), np.float32), truth.labels, truth.fields)
    sheet = Image.new("RGB", (2 * size[0] + 4, size[1]), "white")
    for place, instances in enumerate((annotated, found.select(found.scores >= SCORE))):
        drawn = draw_detections(pixels, instances.crop(window, size), classes)
        sheet.paste(drawn, (place * (size[0] + 4), 0))
    return sheet
