from __future__ import annotations

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from tilewise.data.decode import DecodedImage
from tilewise.instances import Instances
from tilewise.views.view import View

MAX_SIDE = 8192
"""Pixels of the longer side of a picture; larger images are reduced for it."""


def draw_detections(image: DecodedImage, detections: Instances, classes: Sequence[str]) -> Image.Image:
    """An image with the boxes of its detections drawn, one colour a class, and a legend with counts.

    Args:
        image: it is reduced where it is larger than :data:`MAX_SIDE`.
        detections: in the image's pixels; draw what passes a threshold, not all.
        classes: names by label.

    """
    scale = min(1.0, MAX_SIDE / max(image.width, image.height))
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    view = View((0, 0, image.width, image.height), size)
    picture = Image.fromarray(image.show(view))
    width = max(2, round(max(size) / 640))
    canvas = ImageDraw.Draw(picture)
    colours = [_colour(label, len(classes)) for label in range(len(classes))]
    boxes = view.boxes_from_image(detections.boxes).tolist()
    for box, label in zip(boxes, detections.labels.tolist(), strict=True):
        canvas.rectangle(box, outline=colours[label], width=width)
    font = ImageFont.load_default(size=max(14, round(max(size) / 50)))
    top = 4.0
    for label, name in enumerate(classes):
        text = f" {name}: {int((detections.labels == label).sum())} "
        left, upper, right, lower = canvas.textbbox((4, top), text, font=font)
        canvas.rectangle((left, upper - 2, right, lower + 2), fill=(0, 0, 0))
        canvas.text((4, top), text, fill=colours[label], font=font)
        top = lower + 4
    return picture


def _colour(label: int, count: int) -> tuple[int, int, int]:
    """Hues evenly apart, all bright."""
    red, green, blue = colorsys.hsv_to_rgb(label / max(count, 1), 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
