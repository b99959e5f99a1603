from __future__ import annotations

from tilewise.arrays import Float32
from tilewise.boxes import mostly_inside, paired_iou
from tilewise.data.records import Record
from tilewise.instances import Instances

MOST_FALSE_POSITIVES = 300
"""Of an image, the best first (SNIPER: 300 proposals)."""
MAX_IOU = 0.3
"""A detection that overlaps an object by more is not quite false."""


def false_positives(detections: Instances, record: Record) -> Float32:
    """(M, 4) boxes of what a model took for objects of an image and are none, best score first."""
    boxes: Float32 = detections.boxes[:MOST_FALSE_POSITIVES]
    boxes = boxes[~mostly_inside(boxes, record.targets.boxes[record.targets.ignored])]  # in a crowd, say
    if len(record.targets):
        overlap = paired_iou(boxes[:, None], record.targets.boxes).max(axis=1)
        boxes = boxes[overlap <= MAX_IOU]
    return boxes
