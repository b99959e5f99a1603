from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tilewise.arrays import Array
from tilewise.instances import Instances


def draw_detections(image: Array, detections: Instances, classes: Sequence[str]) -> Image.Image:
    """An image with the boxes of its detections drawn, one colour a class, and a legend with counts.

    Args:
        image: (3, H, W) uint8.
        detections: in the image's pixels; draw what passes a threshold, not all.
        classes: names by label.

    """
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, 2)))
    width = max(2, round(max(picture.size) / 640))
    canvas = ImageDraw.Draw(picture)
    colours = [_colour(label, len(classes)) for label in range(len(classes))]
    for box, _, label in detections:
        canvas.rectangle(box, outline=colours[label], width=width)
    font = ImageFont.load_default(size=max(14, round(max(picture.size) / 50)))
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
