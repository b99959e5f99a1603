"""What pycocotools says of detections, from COCO's own JSON."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tilewise.data.records import Records
from tilewise.instances import Instances


def pycocotools_evaluation(
    records: Records,
    detections: Sequence[Instances],
    classes: Sequence[str],
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Any:
    """A COCOeval that has evaluated and accumulated; without ``ranges`` with all defaults, and summarized.

    With them it counts all detections, as Tilewise does.
    """
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (record, instances) in enumerate(zip(records, detections, strict=True)):
        for box, label, ignored in zip(
            record.targets.boxes.tolist(), record.targets.labels.tolist(), record.targets.ignored, strict=True
        ):
            row = _row(number, label, box)
            area = row["bbox"][2] * row["bbox"][3]
            annotations.append({"id": 1 + len(annotations), "area": area, "iscrowd": int(ignored), **row})
        for box, score, label in zip(
            instances.boxes.tolist(), instances.scores.tolist(), instances.labels.tolist(), strict=True
        ):
            results.append({"score": score, **_row(number, label, box)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(len(records))],
            "categories": [{"id": label, "name": name} for label, name in enumerate(classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        if ranges:
            evaluation.params.maxDets = [max(map(len, detections))]
            evaluation.params.areaRng = [list(limits) for limits in ranges.values()]
            evaluation.params.areaRngLbl = list(ranges)
        evaluation.evaluate()
        evaluation.accumulate()
        if not ranges:
            evaluation.summarize()
    return evaluation


def _row(image: int, label: int, box: Sequence[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    return {"image_id": image, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0]}
