from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torchvision.ops import box_iou

from tilewise.arrays import Float32
from tilewise.data.annotations import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.evaluation.evaluate import decoded
from tilewise.inference.predictor import Predictor
from tilewise.instances import Instances

log = logging.getLogger(__name__)

MOST_IMAGES = 2000
MOST_FALSE_POSITIVES = 300
"""Of an image, the best first (SNIPER: 300 proposals)."""
MAX_IOU = 0.3
"""A detection that overlaps an object by more is not quite false."""


def find_false_positives(
    predictor: Predictor, records: Records, issues: ChannelIssues, seed: int, should_stop: Callable[[], bool]
) -> dict[int, Float32]:
    """Where a model sees objects in training images and there are none.

    At most :data:`MOST_IMAGES` images are looked at, drawn with ``seed``; damaged ones are noted in
    ``issues`` and left out.

    Returns:
        For each image that was looked at, by its index, (M, 4) boxes in its pixels.

    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(records))[:MOST_IMAGES]).tolist()
    kept: list[Record] = []
    false_positives: dict[int, Float32] = {}
    images = decoded(predictor, records.select(chosen), issues, kept)
    index_of = {records[index].key: index for index in chosen}
    for number, prediction in enumerate(predictor.predict_all(images)):
        record = kept[number]
        false_positives[index_of[record.key]] = _false(prediction.detections, record)
        if should_stop():
            break
    log.info("%d false alarms in %d images", sum(map(len, false_positives.values())), len(false_positives))
    return false_positives


def _false(found: Instances, record: Record) -> Float32:
    boxes = found.boxes[:MOST_FALSE_POSITIVES]
    if len(record.targets):
        overlap = box_iou(boxes, torch.from_numpy(record.targets.boxes)).max(dim=1).values
        boxes = boxes[overlap <= MAX_IOU]
    false: Float32 = boxes.numpy()
    return false
