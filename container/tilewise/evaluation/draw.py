from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tilewise.arrays import Array
from tilewise.fields import Corners
from tilewise.instances import Instances
from tilewise.masks import MASKS, Masks
from tilewise.views.sample import Sample

OPACITY = 0.4
"""Of a mask over its image."""


def draw_detections(image: Array, detections: Instances, classes: Sequence[str]) -> Image.Image:
    """An image with its detections drawn, a colour a class, and a legend with counts.

    Masks are tinted and have an edge: boxes would hide those of crowded objects. Others have their boxes.

    Args:
        image: (3, H, W) uint8.
        detections: in the image's pixels; draw what passes a threshold, not all.
        classes: names by label.

    """
    pixels = np.ascontiguousarray(np.moveaxis(image, 0, 2))
    colours = [_colour(label, len(classes)) for label in range(len(classes))]
    masks = detections.fields.get(MASKS)
    boxed = np.ones(len(detections), np.bool_)
    if isinstance(masks, Masks):
        pixels = pixels.copy()
        for index, label in enumerate(detections.labels.tolist()):
            grid, place = masks.grid(index)
            boxed[index] = not grid.any()
            if grid.any():
                _fill(pixels, grid, place, colour=colours[label])
    picture = Image.fromarray(pixels)
    width = max(2, round(max(picture.size) / 640))
    canvas = ImageDraw.Draw(picture)
    for box, _, label in detections.select(boxed):
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


def draw_training_views(samples: Sequence[Sample], classes: Sequence[str], side: int = 480) -> Image.Image:
    """Training views as the network gets them, in rows of four, with their boxes; ignored ones are grey.

    Args:
        samples: at least one.
        classes: names by label.
        side: pixels of the longer side that each is enlarged or reduced to.

    """
    columns = min(4, len(samples))
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + 4)), (255, 255, 255))
    colours = [_colour(label, len(classes)) for label in range(len(classes))]
    for number, sample in enumerate(samples):
        picture = Image.fromarray(sample.pixels.permute(1, 2, 0).numpy())
        zoom = side / max(picture.size)
        size = max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom))
        picture = picture.resize(size, Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.BOX)
        canvas = ImageDraw.Draw(picture)
        targets = sample.targets
        for box, label, ignored in zip(
            (targets.boxes * zoom).tolist(), targets.labels.tolist(), targets.ignored.tolist(), strict=True
        ):
            canvas.rectangle(box, outline=(128, 128, 128) if ignored else colours[label], width=1)
        sheet.paste(picture, (number % columns * (side + 4), number // columns * (side + 4)))
    return sheet


def _fill(pixels: Array, grid: Array, place: Corners, *, colour: tuple[int, int, int]) -> None:
    """Tint the pixels of a mask, and give it an edge."""
    left, top = int(place[0]), int(place[1])
    part = pixels[top : top + grid.shape[0], left : left + grid.shape[1]]
    inside = grid > 0
    part[inside] = (OPACITY * np.array(colour) + (1 - OPACITY) * part[inside]).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    inner = cv2.erode(grid, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    part[inside & (inner == 0)] = colour


def _colour(label: int, count: int) -> tuple[int, int, int]:
    """Hues evenly apart, all bright."""
    red, green, blue = colorsys.hsv_to_rgb(label / max(count, 1), 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
