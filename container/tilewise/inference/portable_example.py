#!/usr/bin/env python3
"""Find objects in images with an exported model.

python detect.py IMAGE [IMAGE …]

It needs ONNX Runtime and NumPy; Pillow reads the images. ``facts.json`` says how images are cut into views,
how these are scaled, and how what they show is put together: all of it is done here in plain steps, as
Tilewise's own endpoint does it. Of a model with masks these are the boxes alone, merged without masks.
"""

from __future__ import annotations

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
        height, width = image.shape[:2]
        parts = []
        for number, (window, size, sizes) in enumerate(views(self.facts, width, height)):
            boxes, scores, labels = self.detect_view(cut(image, window, size, fill=self.facts["fill"]))
            x0, y0, x1, y1 = window
            inner = np.array([x0 > 0, y0 > 0, x1 < width, y1 < height])
            far = np.array(size, np.float32)
            cut_sides = np.concatenate([boxes[:, :2] < TOUCH, boxes[:, 2:] > far - TOUCH], axis=1) & inner
            scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)] * 2, np.float32)
            boxes = boxes / scale + np.array([x0, y0] * 2, np.float32)
            boxes = boxes.clip(0, np.array([width, height] * 2, np.float32))
            side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
            kept = (side >= sizes[0]) & (side < sizes[1])
            view = np.full(int(kept.sum()), number)
            parts.append((boxes[kept], scores[kept], labels[kept], view, cut_sides[kept]))
        boxes, scores, labels, view, cut_sides = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        if len(parts) > 1:
            boxes, scores, labels = merge(
                self.facts["tiling"], boxes, scores, labels=labels, view=view, cut_sides=cut_sides
            )
        best = np.argsort(-scores, kind="stable")[: self.facts["detections_per_image"]]
        return boxes[best], scores[best], labels[best]

    def detect_view(self, view: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the network finds in one view, after suppression within its classes."""
        boxes, scores, labels = self.session.run(["boxes", "scores", "labels"], {"view": view})
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
        return boxes[kept], scores[kept], labels[kept]


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
    tiling: dict[str, Any],
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    labels: np.ndarray,
    view: np.ndarray,
    cut_sides: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What all views show, each object once: a box removes those of other views that show the same.

    A box that is cut by a tile's border competes with half its score, and is also removed by one that holds
    more than half of it and goes on beyond that border (not with the rule ``nms``).
    """
    if tiling["merge"] == "nms":
        cut_sides = np.zeros_like(cut_sides)
    boxes = boxes.astype(np.float64)
    fragment = np.asarray(cut_sides.any(axis=1))
    ranks = np.argsort(-scores.astype(np.float64) * np.where(fragment, FRAGMENT_WEIGHT, 1.0), kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    removed, merged, kept = np.zeros(len(boxes), np.bool_), boxes.copy(), []
    for place, best in enumerate(ranks):
        if removed[best]:
            continue
        kept.append(best)
        others = ranks[place + 1 :]
        others = others[~removed[others] & (labels[others] == labels[best]) & (view[others] != view[best])]
        shared = intersection(boxes[best], boxes[others])
        same = shared > tiling["merge_threshold"] * (areas[best] + areas[others] - shared)
        beyond = np.concatenate(
            [boxes[best, :2] < boxes[others, :2], boxes[best, 2:] > boxes[others, 2:]], axis=1
        )
        goes_on = (beyond & cut_sides[others]).any(axis=1)
        same |= fragment[others] & (shared > FRAGMENT_SHARE * areas[others]) & goes_on
        removed[others[same]] = True
        if tiling["merge"] == "wbf":
            members = np.array([best, *(other for other in others[same] if not fragment[other])])
            weights = np.maximum(scores[members].astype(np.float64), 1e-12)
            merged[best] = (weights[:, None] * boxes[members]).sum(axis=0) / weights.sum()
    order = np.sort(kept)
    order = order[np.argsort(-scores[order], kind="stable")]
    return merged[order].astype(np.float32), scores[order], labels[order]


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


def main() -> None:
    """Print what is found in each image."""
    from PIL import Image, ImageOps

    model = Model(Path(__file__).resolve().parent)
    for path in sys.argv[1:]:
        image = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        for box, score, label in zip(*model.detect(image), strict=True):
            print(path, model.labels[label], f"{score:.3f}", *(f"{side:.1f}" for side in box))


if __name__ == "__main__":
    main()
