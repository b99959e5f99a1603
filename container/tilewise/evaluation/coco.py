"""COCO's figures through pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tilewise.data.records import Records
from tilewise.instances import Instances

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


def coco_metrics(records: Records, detections: Sequence[Instances], classes: Sequence[str]) -> dict[str, Any]:
    """Average precision as COCO defines it, over all detections: the cap of 100 an image is lifted.

    Args:
        records: the ground truth; ignored boxes are crowds.
        detections: one a record, in its pixels.
        classes: names by label.

    Returns:
        ``AP`` (IoU 0.50 to 0.95), ``AP50``, ``AP75``, ``AP_small``, ``AP_medium``, ``AP_large``, ``AR`` and
        ``AP_class``, a dict by class name. None where there is no object to find.

    """
    ranges = {"all": (0.0, 1e10), **SIZES}
    evaluation = score(records, detections, classes, ranges)
    # precision: (IoU thresholds, recall levels, classes, sizes, detection caps); -1 where there is no object
    precision, recall = evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]
    by_size = {f"AP_{name}": mean_precision(precision[..., index + 1]) for index, name in enumerate(SIZES)}
    return {
        "AP": mean_precision(precision[..., 0]),
        "AP50": mean_precision(precision[0, ..., 0]),
        "AP75": mean_precision(precision[5, ..., 0]),
        **by_size,
        "AR": mean_precision(recall[..., 0]),
        "AP_class": {name: mean_precision(precision[:, :, label, 0]) for label, name in enumerate(classes)},
    }


def score(
    records: Records,
    detections: Sequence[Instances],
    classes: Sequence[str],
    ranges: Mapping[str, tuple[float, float]],
) -> COCOeval:
    """What pycocotools accumulates, over all detections.

    Args:
        records: the ground truth; ignored boxes are crowds.
        detections: one a record, in its pixels.
        classes: names by label.
        ranges: least and greatest area of the objects that count, by name.

    """
    most = max([100, *map(len, detections)])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _ground_truth(records, classes)
        rows = _results(detections)
        # loadRes fails on nothing at all
        coco_results = truth.loadRes(rows) if len(rows) else _coco({**truth.dataset, "annotations": []})
        evaluation = COCOeval(truth, coco_results, "bbox")
        evaluation.params.maxDets = [most]
        evaluation.params.areaRng = [list(limits) for limits in ranges.values()]
        evaluation.params.areaRngLbl = list(ranges)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def mean_precision(values: np.ndarray) -> float | None:
    """The mean of the known ones of an array of pycocotools; None where none is."""
    known = values[values > -1]
    return round(float(known.mean()), 6) if known.size else None


def _ground_truth(records: Records, classes: Sequence[str]) -> COCO:
    annotations: list[dict[str, Any]] = []
    for image_id, record in enumerate(records, start=1):
        truth = record.targets
        sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
        rows = np.concatenate([truth.boxes[:, :2], sides], axis=1).astype(np.float64)
        for box, label, ignored in zip(
            rows.tolist(), truth.labels.tolist(), truth.ignored.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(ignored),
                }
            )
    return _coco(
        {
            "images": [{"id": image_id} for image_id in range(1, len(records) + 1)],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
            "annotations": annotations,
        }
    )


def _coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _results(detections: Sequence[Instances]) -> np.ndarray:
    """(N, 7) ``image id, x, y, width, height, score, category id``, as COCO.loadRes takes it."""
    rows = [np.zeros((0, 7))]
    for image_id, instances in enumerate(detections, start=1):
        boxes = instances.boxes.numpy().astype(np.float64)
        rows.append(
            np.column_stack(
                [
                    np.full(len(instances), image_id),
                    boxes[:, :2],
                    boxes[:, 2:] - boxes[:, :2],
                    instances.scores.numpy(),
                    instances.labels.numpy() + 1,
                ]
            )
        )
    return np.concatenate(rows)
