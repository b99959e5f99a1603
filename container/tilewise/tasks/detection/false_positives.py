from __future__ import annotations

import torch
from torchvision.ops import box_iou

from tilewise.arrays import Float32
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
        overlap = box_iou(boxes, torch.from_numpy(record.targets.boxes)).max(dim=1).values
        boxes = boxes[overlap <= MAX_IOU]
    false: Float32 = boxes.numpy()
    return false
