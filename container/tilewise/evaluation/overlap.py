"""How much detections and objects of an image share: their masks where they have any, else their boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

from tilewise.arrays import Float64, Floats
from tilewise.boxes import area, intersection, paired_iou
from tilewise.data.records import Record, Records
from tilewise.instances import Instances
from tilewise.masks import MASKS, masks_in
from tilewise.rasters import RunLengthsOfImage, encode


def on_masks(records: Records) -> bool:
    """Whether figures are computed on masks: objects have some."""
    masks = masks_in(records.targets.fields)
    return masks is not None and bool(masks.known.any())


def iou(record: Record, detections: Instances) -> Floats:
    """(N, M) of detections and objects."""
    if MASKS in record.targets.fields:
        return _of_masks(record, detections, inside=False)
    boxes = detections.boxes
    return paired_iou(boxes[:, None], record.targets.boxes.astype(boxes.dtype))


def share_inside(record: Record, detections: Instances) -> Floats:
    """(N, M) which share of each detection lies in each object."""
    if MASKS in record.targets.fields:
        return _of_masks(record, detections, inside=True)
    boxes = detections.boxes.astype(np.float64)[:, None]
    shared: Floats = intersection(boxes, record.targets.boxes.astype(np.float64))
    share: Floats = shared / area(boxes).clip(min=1e-12)
    return share


def _of_masks(record: Record, detections: Instances, *, inside: bool) -> Float64:
    found, truth = (encoded_masks(each, record.width, record.height) for each in (detections, record.targets))
    if not found or not truth:
        return np.zeros((len(found), len(truth)))
    overlaps: Float64 = np.asarray(coco_masks.iou(found, truth, [int(inside)] * len(truth)), np.float64)
    return overlaps


def encoded_masks(objects: Any, width: int, height: int) -> list[RunLengthsOfImage]:
    """The masks of instances or targets of an image: of an object without one its box, filled."""
    masks = masks_in(objects.fields)
    encoded = [None] * len(objects) if masks is None else masks.encoded(width, height)
    return [
        _box(box, width, height) if mask is None else mask
        for mask, box in zip(encoded, objects.boxes.tolist(), strict=True)
    ]


def _box(box: list[float], width: int, height: int) -> RunLengthsOfImage:
    x0, y0, x1, y1 = (round(side) for side in box)
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    filled = np.ones((max(y1 - y0, 0), max(x1 - x0, 0)), np.uint8)
    return encode(filled, (x0, y0, x1, y1), width=width, height=height)
