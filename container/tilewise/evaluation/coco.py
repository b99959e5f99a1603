"""COCO's figures, by faster-coco-eval: pycocotools' procedure in C++."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from tilewise.arrays import Float64, Int64
from tilewise.boxes import Size
from tilewise.data.channel_table import SIZE_LIMITS, SIZE_NAMES
from tilewise.data.records import Records
from tilewise.evaluation.overlap import encoded_masks, on_masks
from tilewise.evaluation.parts import image_numbers
from tilewise.instances import Instances
from tilewise.rasters import area_of

log = logging.getLogger(__name__)

LARGEST = 1e10
"""Where COCO's size classes end, as an area in pixels."""

SIZES = {
    "very_tiny": (0.0, 8.0**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, LARGEST),
}
"""Least and greatest area, in pixels of the image, of the objects of a size class: COCO's and AI-TOD's."""

COCO_SIZES = ("small", "medium", "large")

IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""From which IoU on a detection is a hit, in the order of ``recall_by_IoU``."""

FIGURES = (
    "AP",
    "AP50",
    "AP75",
    *(f"AP_{size}" for size in SIZES),
    "AR",
    *(f"AR_{size}" for size in COCO_SIZES),
)
"""The mean figures of :func:`coco_metrics`, in the order in which users see them."""

_FINE_SIZES = dict(
    zip(SIZE_NAMES, pairwise([0.0, *(float(limit) ** 2 for limit in SIZE_LIMITS), LARGEST]), strict=True)
)
RANGES = {
    "all": (0.0, LARGEST),
    **SIZES,
    **{name: limits for name, limits in _FINE_SIZES.items() if limits not in SIZES.values()},
}
"""All that figures are computed for, in one pass."""


def coco_metrics(records: Records, detections: Sequence[Instances], classes: Sequence[str]) -> dict[str, Any]:
    """Average precision and recall as COCO defines them, all from one pass over the detections.

    Two things are not as pycocotools has them by default: all detections of an image count, not the best 100,
    and an object's size is the area of its box, not that of its outline. Where objects have masks, the IoU is
    that of masks, and an object's size the area of its mask. Images with very many detections and objects are
    evaluated in parts (:mod:`tilewise.evaluation.parts`), which may order detections of one score otherwise.

    Args:
        records: the ground truth; ignored boxes are crowds.
        detections: one a record, in its pixels.
        classes: names by label.

    Returns:
        The :data:`FIGURES`: means over the classes, ``AP`` and ``AR`` also over IoU 0.50 to 0.95.
        ``AP_class``, a dict by class name. ``AP_by_size``, by size class of :data:`SIZE_NAMES` its
        ``objects``, ``AP`` and ``AP50``. ``recall_by_IoU``, for all objects and the :data:`COCO_SIZES` the
        recall at each of the :data:`IOUS`. None where there is no object to find.

    """
    evaluation = accumulate(records, detections, classes, ranges=RANGES)
    place = {name: index for index, name in enumerate(RANGES)}
    of_limits = {limits: index for index, limits in enumerate(RANGES.values())}
    # precision: (IoU thresholds, recall levels, classes, sizes, detection caps); -1 where there is no object
    precision, recall = evaluation["precision"][..., 0], evaluation["recall"][..., 0]
    sizes = np.sqrt(mask_areas(records)) if on_masks(records) else records.object_sizes
    size_of = np.digitize(sizes[~records.targets.ignored], SIZE_LIMITS)
    return {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[0, ..., 0]),
        "AP75": _mean(precision[5, ..., 0]),
        **{f"AP_{size}": _mean(precision[..., place[size]]) for size in SIZES},
        "AR": _mean(recall[..., 0]),
        **{f"AR_{size}": _mean(recall[..., place[size]]) for size in COCO_SIZES},
        "AP_class": {name: _mean(precision[:, :, label, 0]) for label, name in enumerate(classes)},
        "AP_by_size": {
            name: {
                "objects": int((size_of == index).sum()),
                "AP": _mean(precision[..., of_limits[_FINE_SIZES[name]]]),
                "AP50": _mean(precision[0, ..., of_limits[_FINE_SIZES[name]]]),
            }
            for index, name in enumerate(SIZE_NAMES)
        },
        "recall_by_IoU": {
            size: [_mean(row) for row in recall[..., place[size]]] for size in ("all", *COCO_SIZES)
        },
    }


def accumulate(
    records: Records,
    detections: Sequence[Instances],
    classes: Sequence[str],
    *,
    ranges: Mapping[str, tuple[float, float]],
) -> dict[str, Any]:
    """What pycocotools would accumulate, over all detections.

    Args:
        records: the ground truth; ignored boxes are crowds.
        detections: one a record, in its pixels.
        classes: names by label.
        ranges: least and greatest area of the objects that count, by name.

    Returns:
        ``precision``, (10 IoUs, 101 recalls, C, ranges, 1), and ``recall``, without the recalls: float64, -1
        where there is no object.

    """
    images_of_found, images_of_truth, sizes = image_numbers(records, detections, IOUS[0])
    truth = _truth_rows(records, images_of_truth)
    found = _detection_rows(detections, images_of_found)
    if on_masks(records):
        _add_masks(truth, [record.targets for record in records], records)
        _add_masks(found, detections, records)
    evaluation = COCOeval_faster(
        _coco(truth, sizes, classes),
        _coco(found, sizes, classes),
        "segm" if on_masks(records) else "bbox",
        print_function=log.debug,
    )
    evaluation.params.maxDets = [max([100, *map(len, detections)])]
    evaluation.params.areaRng = [list(limits) for limits in ranges.values()]
    evaluation.params.areaRngLbl = list(ranges)
    evaluation.evaluate()
    shape = (len(evaluation.params.iouThrs), len(evaluation.params.recThrs), len(classes), len(ranges), 1)
    return {
        "precision": np.asarray(evaluation.eval["precision"], np.float64).reshape(shape),
        "recall": np.asarray(evaluation.eval["recall"], np.float64).reshape(shape[:1] + shape[2:]),
    }


def _mean(values: Float64) -> float | None:
    """The mean of the known ones; None where none is."""
    known = values[values > -1]
    return round(float(known.mean()), 6) if known.size else None


def _truth_rows(records: Records, images: Int64) -> list[dict[str, Any]]:
    truth = records.targets
    return [
        {"iscrowd": int(ignored), **row}
        for row, ignored in zip(_rows(images, truth.boxes, truth.labels), truth.ignored.tolist(), strict=True)
    ]


def _detection_rows(detections: Sequence[Instances], images: Int64) -> list[dict[str, Any]]:
    boxes = np.concatenate([np.zeros((0, 4)), *(each.boxes.astype(np.float64) for each in detections)])
    labels = np.concatenate([np.zeros(0, np.int64), *(each.labels for each in detections)])
    scores = [score for each in detections for score in each.scores.tolist()]
    rows = _rows(images, boxes, labels)
    return [{"score": score, **row} for row, score in zip(rows, scores, strict=True)]


def _rows(images_N: Int64, boxes_N4: np.ndarray, labels_N: np.ndarray) -> list[dict[str, Any]]:
    """Annotations in COCO's form, whose ids of images, categories and of their own count from 1."""
    boxes = np.concatenate([boxes_N4[:, :2], boxes_N4[:, 2:] - boxes_N4[:, :2]], axis=1).astype(np.float64)
    columns = (images_N + 1).tolist(), (labels_N + 1).tolist(), boxes.tolist()
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3]}
        for number, (image, label, box) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _add_masks(rows: list[dict[str, Any]], objects: Sequence[Any], records: Records) -> None:
    """Put the masks of the objects of each image into their rows, with their areas."""
    masks = [
        mask
        for each, (width, height) in zip(objects, records.sizes.tolist(), strict=True)
        for mask in encoded_masks(each, width, height)
    ]
    for row, mask in zip(rows, masks, strict=True):
        row |= {"segmentation": mask, "area": float(area_of(mask))}


def mask_areas(records: Records) -> Float64:
    """(N,) pixels of the masks of all objects."""
    return np.array(
        [
            area_of(mask)
            for record in records
            for mask in encoded_masks(record.targets, record.width, record.height)
        ],
        np.float64,
    )


def _coco(annotations: list[dict[str, Any]], sizes: Sequence[Size], classes: Sequence[str]) -> COCO:
    return COCO(
        {
            "images": [
                {"id": number, "width": width, "height": height}
                for number, (width, height) in enumerate(sizes, start=1)
            ],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
            "annotations": annotations,
        }
    )
