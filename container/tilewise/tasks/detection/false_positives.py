from __future__ import annotations

from tilewise.arrays import Float32
from tilewise.boxes import paired_iou
from tilewise.data.records import Record
from tilewise.instances import Instances

MOST_FALSE_POSITIVES = 300
"""Of an image, the best first (SNIPER: 300 proposals)."""
MAX_IOU = 0.3
"""A detection that overlaps an object by more is not quite false."""


def false_positives(detections: Instances, record: Record) -> Float32:
    """(M, 4) boxes of what a model took for objects of an image and are none, best score first."""
    boxes = detections.boxes[:MOST_FALSE_POSITIVES]
    if len(record.targets):
        overlap = paired_iou(boxes[:, None], record.targets.boxes).max(axis=1)
        boxes = boxes[overlap <= MAX_IOU]
    return boxes
