from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from torchvision.ops import box_iou

from tilewise.arrays import Float32
from tilewise.data.annotations import Report
from tilewise.data.records import Record, Records
from tilewise.detections import Detections
from tilewise.evaluation.evaluate import decoded
from tilewise.inference.predictor import Predictor

log = logging.getLogger(__name__)

MOST_IMAGES = 2000
MOST_ALARMS = 300
"""Of an image, the best first (SNIPER: 300 proposals)."""
MAX_IOU = 0.3
"""A detection that overlaps an object by more is not quite false."""


def find_false_alarms(
    predictor: Predictor, records: Records, report: Report, seed: int, should_stop: Callable[[], bool]
) -> dict[int, Float32]:
    """Where a model sees objects in training images and there are none.

    At most :data:`MOST_IMAGES` images are looked at, drawn with ``seed``; damaged ones are noted in
    ``report`` and left out.

    Returns:
        For each image that was looked at, by its index, (M, 4) boxes in its pixels.

    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(records))[:MOST_IMAGES]).tolist()
    kept: list[Record] = []
    alarms: dict[int, Float32] = {}
    images = decoded(predictor, records.select(chosen), report, kept)
    index_of = {records[index].key: index for index in chosen}
    for number, prediction in enumerate(predictor.predict_all(images)):
        record = kept[number]
        alarms[index_of[record.key]] = _false(prediction.detections, record)
        if should_stop():
            break
    log.info("%d false alarms in %d images", sum(map(len, alarms.values())), len(alarms))
    return alarms


def _false(found: Detections, record: Record) -> Float32:
    boxes = found.boxes[:MOST_ALARMS]
    if len(record.boxes):
        overlap = box_iou(boxes, torch.from_numpy(record.boxes)).max(dim=1).values
        boxes = boxes[overlap <= MAX_IOU]
    false: Float32 = boxes.numpy()
    return false
