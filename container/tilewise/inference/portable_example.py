#!/usr/bin/env python3
"""Find objects in images with an exported model.

python detect.py [--masks FOLDER] IMAGE [IMAGE …]

It needs ONNX Runtime and NumPy; Pillow reads the images. ``facts.json`` says how images are cut into views,
how these are scaled, and how what they show is put together: all of it is done here in plain steps, as
Tilewise's own endpoint does it.

A line of what is printed has the image, the class, the score, and xmin, ymin, xmax, ymax in pixels. Of a
model with masks ``--masks`` writes a PNG for each image, whose pixels hold the number, from 1, of the line of
the object that they are of; 0 is none, and of two objects the one with the better score is on top.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

TOUCH = 3.0  # a box that ends so near an inner border of a tile, in pixels of the view, is cut by it
FRAGMENT_SHARE, FRAGMENT_WEIGHT = 0.5, 0.5
ANSWER_SLACK = 1.25
MIRRORED_IOU = 0.55  # from which on boxes of a view and of its mirror image are one object's
AGREEMENT, POINTS = 1 / 3, 24  # masks that share less of the smaller one are two objects'
FINER = 1.5  # a view that shows an object so many times as large has the better mask of it

Mask = tuple[int, int, np.ndarray]
"""Where in the image a mask begins, x and y, and its pixels from there: (h, w) bool."""


class Model:
    """An exported model.

    Args:
        folder: with ``model.onnx``, ``labels.json`` and ``facts.json``.

    """

    def __init__(self, folder: Path):
        self.facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self.labels: list[str] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    def detect(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N, 4) in pixels, scores (N,) and labels (N,) of an (H, W, 3) uint8 RGB image; best first."""
        boxes, scores, labels, _ = self.segment(image)
        return boxes, scores, labels

    def segment(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Mask]]:
        """The same, and the mask of each object; of a model without masks an empty list."""
        found = self.look(image)
        boxes, kept, members = merge(self.facts["tiling"], found)
        kept = kept[: self.facts["detections_per_image"]]
        masks: list[Mask] = []
        if "grids" in found:
            size, threshold = (image.shape[1], image.shape[0]), self.facts["mask_threshold"]
            for row in kept.tolist():
                masks.append(place(found, members[row], size, threshold=threshold))
                if len(members[row]) > 1 and found["cut_sides"][row].any() and masks[-1][2].any():
                    boxes[row] = around(masks[-1])
        return boxes[kept], found["scores"][kept], found["labels"][kept], masks

    def look(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What all views of an image show, by name an array with a row for each object.

        Boxes are in pixels of the image; so are ``frames``, the places of the masks' ``grids``, which may
        reach beyond it.
        """
        height, width = image.shape[:2]
        parts = []
        for number, (window, size, sizes) in enumerate(views(self.facts, width, height)):
            pixels = cut(image, window, size, fill=self.facts["fill"])
            for mirrored in (False, True)[: 1 + self.facts["tiling"]["mirror"]]:
                part = self.detect_view(np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels)
                if mirrored:
                    flip(part, size[0])
                x0, y0, x1, y1 = window
                inner = np.array([x0 > 0, y0 > 0, x1 < width, y1 < height])
                boxes, far = part["boxes"], np.array(size, np.float32)
                touches = np.concatenate([boxes[:, :2] < TOUCH, boxes[:, 2:] > far - TOUCH], axis=1)
                scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)] * 2, np.float32)
                frames = boxes / scale + np.array([x0, y0] * 2, np.float32)
                boxes = frames.clip(0, np.array([width, height] * 2, np.float32))
                count = len(boxes)
                part |= {
                    "boxes": boxes,
                    "frames": frames,
                    "cut_sides": touches & inner,
                    "window": np.full(count, number),
                    "view": np.full(count, 2 * number + mirrored),
                    "scale": np.full(count, math.sqrt(float(scale[0]) * float(scale[1]))),
                }
                side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
                kept = (side > 0) & (side >= sizes[0]) & (side < sizes[1])
                parts.append({name: column[kept] for name, column in part.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def detect_view(self, view: np.ndarray) -> dict[str, np.ndarray]:
        """What the network finds in one view, after suppression within its classes.

        ``boxes``, ``scores``, ``labels``; with masks ``grids``, (N, 28, 28) from 0 to 255 over each box.
        """
        names = list(self.facts["outputs"])
        said = dict(zip(names, self.session.run(names, {"view": view}), strict=True))
        boxes, scores, labels = said["boxes"], said["scores"], said["labels"]
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > self.facts["score_threshold"]]
        kept: list[int] = []
        while len(order) and len(kept) < self.facts["detections_per_view"]:
            best, order = order[0], order[1:]
            kept.append(best)
            same = (iou(boxes[best], boxes[order]) > self.facts["nms_iou_threshold"]) & (
                labels[order] == labels[best]
            )
            order = order[~same]
        rows = np.array(kept, np.int64)
        found = {"boxes": boxes[rows], "scores": scores[rows], "labels": labels[rows]}
        if "masks" in said:
            found["grids"] = np.round(255 * said["masks"][rows])
        elif "prototypes" in said:
            stride = self.facts["prototype_stride"]
            found["grids"] = mix(said["prototypes"], boxes[rows], said["coefficients"][rows], stride=stride)
        return found


def flip(found: dict[str, np.ndarray], width: int) -> None:
    """What a mirrored view shows becomes what the view itself shows."""
    boxes = found["boxes"][:, [2, 1, 0, 3]]
    boxes[:, ::2] = width - boxes[:, ::2]
    found["boxes"] = boxes
    if "grids" in found:
        found["grids"] = found["grids"][:, :, ::-1]


def views(facts: dict[str, Any], width: int, height: int) -> list[tuple[Any, tuple[int, int], Any]]:
    """For each view its window in pixels of the image, its size, and the sizes of objects it answers for."""
    tiling, any_size = facts["tiling"], (0.0, math.inf)
    scaling = facts["scaling"]
    whole = (whole_window(scaling, width, height), view_size(scaling, width, height), any_size)
    overlap = tiling["overlap"]
    if tiling["kind"] == "whole":
        return [whole]
    if tiling["kind"] == "pyramid":
        found = []
        for level in tiling["levels"]:
            high = math.inf if level["largest"] is None else level["largest"] * ANSWER_SLACK
            tile = math.ceil(width / level["zoom"]), math.ceil(height / level["zoom"])
            sizes = (level["smallest"] / ANSWER_SLACK, high)
            found += [(window, whole[1], sizes) for window in windows(width, height, tile, overlap=overlap)]
        return found
    if tiling["kind"] == "grid":
        columns, rows = tiling["grid"]
        tile_width = width / (overlap + (1 - overlap) * columns)
        tile_height = height / (overlap + (1 - overlap) * rows)
        size = view_size(facts["scaling"], tile_width, tile_height)
        lefts = [column * (1 - overlap) * tile_width for column in range(columns)]
        tops = [row * (1 - overlap) * tile_height for row in range(rows)]
        tiles = [
            (round(x), round(y), round(x + tile_width), round(y + tile_height)) for x in lefts for y in tops
        ]
        tiles = [(x0, y0, x1, y1) for x0, y0, x1, y1 in tiles if x0 < x1 and y0 < y1]
    else:
        side = tiling["tile_size"]
        size = view_size(facts["scaling"], side, side)
        tiles = windows(width, height, (side, side), overlap=overlap)
    if tiling["whole_from"]:
        whole = (whole[0], whole[1], (tiling["whole_from"] / ANSWER_SLACK, math.inf))
    return [whole, *((window, size, any_size) for window in tiles)]


def whole_window(scaling: dict[str, Any], width: int, height: int) -> Any:
    """What is seen of an image where it is seen once: all, or of a classifier the square in its middle."""
    if "resized" not in scaling:
        return (0, 0, width, height)
    side = max(1, round(min(width, height) * scaling["square"] / scaling["resized"]))
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def windows(width: int, height: int, tile: tuple[int, int], *, overlap: float) -> list[Any]:
    """Tiles of one size, row by row; the last of a row or column are moved inside."""
    starts = []
    for length, side in ((width, tile[0]), (height, tile[1])):
        last = max(0, length - side)
        starts.append([*range(0, last, max(1, side - int(side * overlap))), last])
    return [(x, y, x + tile[0], y + tile[1]) for y in starts[1] for x in starts[0]]


def view_size(scaling: dict[str, Any], width: float, height: float) -> tuple[int, int]:
    """The width and height that a window is scaled to."""
    if scaling["square"] is not None:
        return scaling["square"], scaling["square"]
    scale = min(scaling["min_size"] / min(width, height), scaling["max_size"] / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def cut(image: np.ndarray, window: Any, size: tuple[int, int], *, fill: list[int]) -> np.ndarray:
    """A window of an image, which may reach beyond it, scaled: bilinear, antialiased, as Pillow does it."""
    x0, y0, x1, y1 = window
    inside = image[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    canvas = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
    canvas[:] = fill
    top, left = max(-y0, 0), max(-x0, 0)
    canvas[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    if x1 - x0 < size[0] and y1 - y0 > size[1]:  # the axis that shrinks goes first
        canvas = scale_rows(canvas, size[1])
    across = scale_rows(np.ascontiguousarray(canvas.transpose(1, 0, 2)), size[0])
    return scale_rows(np.ascontiguousarray(across.transpose(1, 0, 2)), size[1])


def scale_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """(N, M, 3) -> (count, M, 3): each row a weighted mean of those that lie near it."""
    if len(rows) == count:
        return rows
    scale = len(rows) / count
    support = max(scale, 1.0)
    scaled = np.empty((count, *rows.shape[1:]), np.uint8)
    for row in range(count):
        centre = (row + 0.5) * scale
        first, last = max(0, int(centre - support + 0.5)), min(len(rows), int(centre + support + 0.5))
        weights = (1 - np.abs(np.arange(first, last) + 0.5 - centre) / support).clip(min=0)
        weights = (weights / weights.sum()).astype(np.float32)
        scaled[row] = np.tensordot(weights, rows[first:last].astype(np.float32), axes=1) + 0.5
    return scaled


def merge(
    tiling: dict[str, Any], found: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, dict[int, list[int]]]:
    """What all views show, each object once: a box removes those of other views that show the same.

    A box that is cut by a tile's border competes with half its score, and is also removed by one that holds
    more than half of it and goes on beyond that border (not with the rule ``nms``). Where there are masks, a
    box removes only what shares enough of its mask.

    Returns:
        The boxes; which of them remain, best first; and of each of these the rows that its mask is made of.

    """
    scores, labels, view = found["scores"].astype(np.float64), found["labels"], found["view"]
    whole = np.asarray(~found["cut_sides"].any(axis=1))
    cut_sides = np.zeros_like(found["cut_sides"]) if tiling["merge"] == "nms" else found["cut_sides"]
    boxes = found["boxes"].astype(np.float64)
    fragment = np.asarray(cut_sides.any(axis=1))
    ranks = np.argsort(-scores * np.where(fragment, FRAGMENT_WEIGHT, 1.0), kind="stable")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    removed, merged = np.zeros(len(boxes), np.bool_), boxes.copy()
    members: dict[int, list[int]] = {}
    for place_, best in enumerate(ranks.tolist()):
        if removed[best]:
            continue
        others = ranks[place_ + 1 :]
        others = others[~removed[others] & (labels[others] == labels[best]) & (view[others] != view[best])]
        shared = intersection(boxes[best], boxes[others])
        mirrored = found["window"][others] == found["window"][best]
        threshold = np.where(
            mirrored, max(tiling["merge_threshold"], MIRRORED_IOU), tiling["merge_threshold"]
        )
        same = shared > threshold * (areas[best] + areas[others] - shared)
        beyond = np.concatenate(
            [boxes[best, :2] < boxes[others, :2], boxes[best, 2:] > boxes[others, 2:]], axis=1
        )
        goes_on = (beyond & cut_sides[others]).any(axis=1)
        same |= fragment[others] & (shared > FRAGMENT_SHARE * areas[others]) & goes_on
        others = others[same]
        if "grids" in found:
            others = others[agree(found, best, others)]
        removed[others] = True
        members[best] = shows(found, best, others, mean=tiling["merge"] == "wbf", whole=whole)
        if tiling["merge"] == "wbf":
            both = np.array([best, *others[~fragment[others]]])
            weights = np.maximum(scores[both], 1e-12)
            merged[best] = (weights[:, None] * boxes[both]).sum(axis=0) / weights.sum()
    kept = np.array(sorted(members), np.int64)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return merged.astype(np.float32), kept, members


def shows(
    found: dict[str, np.ndarray], best: int, removed: np.ndarray, *, mean: bool, whole: np.ndarray
) -> list[int]:
    """Of which objects a mask is made: of a cut one of all; else of itself, or of the finest whole one."""
    if not len(removed) or not whole[best]:
        return [best, *removed.tolist()]
    several = [best, *removed[whole[removed]].tolist()]
    if mean:
        return several
    finest = max(several, key=lambda row: float(found["scale"][row]))
    return [finest if found["scale"][finest] > FINER * found["scale"][best] else best]


def agree(found: dict[str, np.ndarray], best: int, others: np.ndarray) -> np.ndarray:
    """Which masks share enough with one to be the same object's: (N,) bool.

    They are compared on a grid of points over what their boxes share.
    """
    frames, steps = found["frames"], (np.arange(POINTS) + 0.5) / POINTS
    enough = []
    for other in others.tolist():
        low = np.maximum(frames[best, :2], frames[other, :2])
        sides = (np.minimum(frames[best, 2:], frames[other, 2:]) - low).clip(min=0)
        inside, sizes = np.ones((POINTS, POINTS), np.bool_), []
        for grid, frame in (
            (found["grids"][row] > 127, frames[row].astype(np.float64)) for row in (best, other)
        ):
            length = (frame[2:] - frame[:2]).clip(min=1e-6)
            cells = (low + steps[:, None] * sides - frame[:2]) / length * [grid.shape[1], grid.shape[0]]
            x, y = (cells[:, axis].astype(np.int64).clip(0, grid.shape[1 - axis] - 1) for axis in (0, 1))
            inside &= grid[y[:, None], x]
            sizes.append(grid.mean() * (frame[2:] - frame[:2]).prod())
        enough.append(inside.mean() * sides.prod() > AGREEMENT * min(sizes))
    return np.array(enough, np.bool_)


def mix(prototypes: np.ndarray, boxes: np.ndarray, coefficients: np.ndarray, *, stride: int) -> np.ndarray:
    """The masks of boxes of a view, (N, 28, 28) from 0 to 255, at the centres of the cells of each box.

    Each object mixes the view's prototypes, (P, h, w), where its box is, and then planes over its own box.
    """
    steps = (np.arange(28) + 0.5) / 28
    u = np.broadcast_to(2 * steps - 1, (28, 28))
    planes = np.stack([np.ones_like(u), u, u.T, 0.5 - u**2, 0.5 - u.T**2]).astype(np.float32)
    count = len(prototypes)
    logits = np.tensordot(coefficients[:, count:], planes, axes=1)
    for own, weights, (x0, y0, x1, y1) in zip(logits, coefficients, boxes.tolist(), strict=True):
        down, across = (
            between(((low + steps * (high - low)) / stride - 0.5).clip(0, side - 1), side)
            for low, high, side in ((y0, y1, prototypes.shape[1]), (x0, x1, prototypes.shape[2]))
        )
        own += down @ np.tensordot(weights[:count], prototypes, axes=1) @ across.T
    return np.asarray(np.round(255 / (1 + np.exp(-logits.clip(-50, 50)))))


def between(places: np.ndarray, cells: int) -> np.ndarray:
    """How much each cell counts in each place, where 0 is the first one's centre: (places, cells)."""
    return np.asarray((1 - np.abs(places[:, None] - np.arange(cells))).clip(min=0), np.float32)


def place(
    found: dict[str, np.ndarray], members: list[int], size: tuple[int, int], *, threshold: float
) -> Mask:
    """The pixels of an object that its masks are surer of than ``threshold``, from 0 to 1.

    Several masks of an object that tiles cut are put together, of a whole one they are averaged.
    """
    frames = found["frames"][members].astype(np.float64)
    low, high = (
        np.clip(corner, 0, size).astype(int)
        for corner in (np.floor(frames[:, :2].min(axis=0)), np.ceil(frames[:, 2:].max(axis=0)))
    )
    united = bool(found["cut_sides"][members[0]].any())
    total = np.zeros((high[1] - low[1], high[0] - low[0]), np.float32)
    weight = np.zeros_like(total)
    for frame, row in zip(frames, members, strict=True):
        first = np.maximum(np.floor(frame[:2]), low).astype(int)
        last = np.maximum(np.minimum(np.ceil(frame[2:]), high).astype(int), first)
        grid = found["grids"][row].astype(np.float32)
        cells = np.array(grid.shape[::-1]) / (frame[2:] - frame[:2]).clip(min=1e-6)  # in a pixel
        across, down = (
            between(
                (np.arange(first[axis], last[axis]) + 0.5 - frame[axis]) * cells[axis] - 0.5,
                grid.shape[1 - axis],
            )
            for axis in (0, 1)
        )
        pixels = down @ grid @ across.T
        where = slice(first[1] - low[1], last[1] - low[1]), slice(first[0] - low[0], last[0] - low[0])
        score = 1.0 if len(members) == 1 else float(found["scores"][row])
        total[where] = np.maximum(total[where], pixels) if united else total[where] + score * pixels
        weight[where] += score
    soft = total if united else total / np.maximum(weight, 1e-9)
    return int(low[0]), int(low[1]), soft > 255 * threshold


def around(mask: Mask) -> tuple[int, int, int, int]:
    """The box around a mask's pixels, of which there are some."""
    left, top, pixels = mask
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return (left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)


def intersection(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that a box shares with each of the others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.asarray(sides.clip(min=0).prod(axis=1))


def iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of the others."""
    box, others = box.astype(np.float64), others.astype(np.float64)
    shared = intersection(box, others)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    return np.asarray(shared / np.maximum((box[2:] - box[:2]).prod() + areas - shared, 1e-12))


def numbered(masks: list[Mask], width: int, height: int) -> np.ndarray:
    """An (H, W) uint16 picture: of each pixel the number, from 1, of the first mask that has it, else 0."""
    picture = np.zeros((height, width), np.uint16)
    for number, (left, top, pixels) in reversed(list(enumerate(masks, 1))):
        picture[top : top + pixels.shape[0], left : left + pixels.shape[1]][pixels] = number
    return picture


def read(path: Path, facts: dict[str, Any]) -> np.ndarray:
    """The pixels of an upright image, (H, W, 3) uint8 RGB; what is transparent is white.

    It ends the program where Pillow gives other pixels than Tilewise sees.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(path))
    if facts["bands"]:
        bands = ", ".join(map(str, facts["bands"]))
        sys.exit(f"{path}: this model sees bands {bands} of an image as RGB: give Model their pixels")
    if image.mode[0] in "IF":
        sys.exit(f"{path} has values of more than 8 bits: scale them to 0..255, and give Model the pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def main() -> None:
    """Print what is found in each image."""
    from PIL import Image

    parser = argparse.ArgumentParser(description="Find objects in images with an exported model.")
    parser.add_argument("--masks", type=Path, help="write a PNG of each image's masks to this folder")
    parser.add_argument("images", nargs="+", type=Path)
    options = parser.parse_args()
    model = Model(Path(__file__).resolve().parent)
    if options.masks:
        if "mask_threshold" not in model.facts:
            parser.error("--masks: this model gives boxes alone")
        if len({path.stem for path in options.images}) < len(options.images):
            parser.error("--masks: two images have one name")
        options.masks.mkdir(parents=True, exist_ok=True)
    for path in options.images:
        image = read(path, model.facts)
        boxes, scores, labels, masks = model.segment(image)
        for box, score, label in zip(boxes, scores, labels, strict=True):
            print(path, model.labels[label], f"{score:.3f}", *(f"{side:.1f}" for side in box))
        if options.masks:
            picture = numbered(masks, image.shape[1], image.shape[0])
            Image.fromarray(picture).save(options.masks / f"{path.stem}.png")


if __name__ == "__main__":
    main()
