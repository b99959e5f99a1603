from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tilewise.arrays import Array
from tilewise.bitmaps import Bitmaps, pulled
from tilewise.fields import Corners
from tilewise.instances import Instances
from tilewise.masks import bitmaps_in, masks_in
from tilewise.views.sample import Sample

Ink = tuple[int, int, int]
"""Red, green and blue."""

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
    masks = masks_in(detections.fields)
    boxed = np.ones(len(detections), np.bool_)
    if masks is not None:
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
    """Training views as the network gets them, in rows of four, with masks, or boxes; ignored ones are grey.

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
        targets, grey = sample.targets, (128, 128, 128)
        inks = [
            grey if ignored else colours[label]
            for label, ignored in zip(targets.labels.tolist(), targets.ignored.tolist(), strict=True)
        ]
        pixels = sample.pixels.permute(1, 2, 0).numpy().copy()
        masked = _fill_masks(pixels, bitmaps_in(targets.fields), inks)
        picture = Image.fromarray(pixels)
        zoom = side / max(picture.size)
        size = max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom))
        picture = picture.resize(size, Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.BOX)
        canvas = ImageDraw.Draw(picture)
        for number_of_box, (box, ink) in enumerate(zip((targets.boxes * zoom).tolist(), inks, strict=True)):
            if number_of_box not in masked:
                canvas.rectangle(box, outline=ink, width=1)
        sheet.paste(picture, (number % columns * (side + 4), number // columns * (side + 4)))
    return sheet


def _fill_masks(pixels: Array, masks: Bitmaps | None, inks: Sequence[Ink]) -> set[int]:
    """Tint the masks that a view's objects have. Returns which these are."""
    drawn: set[int] = set()
    if masks is None:
        return drawn
    for index, (x0, y0, x1, y1) in enumerate(np.asarray(masks.frames).tolist()):
        left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
        right, bottom = min(math.ceil(x1), pixels.shape[1]), min(math.ceil(y1), pixels.shape[0])
        if not masks.known[index] or right <= left or bottom <= top:
            continue
        cells = (np.asarray(masks.values[index]) > 127).astype(np.uint8)
        cell = np.diag([(x1 - x0) / cells.shape[1], (y1 - y0) / cells.shape[0]])
        size = right - left, bottom - top
        grid = pulled(cells, cell, (x0 - left, y0 - top), corner=(0, 0), size=size)
        if grid.any():
            _fill(pixels, grid, (left, top, right, bottom), colour=inks[index])
            drawn.add(index)
    return drawn


def _fill(pixels: Array, grid: Array, place: Corners, *, colour: Ink) -> None:
    """Tint the pixels of a mask, and give it an edge."""
    left, top = int(place[0]), int(place[1])
    part = pixels[top : top + grid.shape[0], left : left + grid.shape[1]]
    inside = grid > 0
    part[inside] = (OPACITY * np.array(colour) + (1 - OPACITY) * part[inside]).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    inner = cv2.erode(grid, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    part[inside & (inner == 0)] = colour


def _colour(label: int, count: int) -> Ink:
    """Hues evenly apart, all bright."""
    red, green, blue = colorsys.hsv_to_rgb(label / max(count, 1), 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
