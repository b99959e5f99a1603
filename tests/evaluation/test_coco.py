from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_instances import make_instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tilewise.data.records import Record, Records
from tilewise.evaluation.coco import coco_metrics
from tilewise.instances import Instances
from tilewise.targets import Targets

CLASSES = ("ant", "bee", "cat")


def make_record(boxes: list[list[float]], labels: list[int], ignored: list[int] | None = None) -> Record:
    return Record(
        key="image",
        path=Path("image"),
        width=640,
        height=480,
        targets=Targets(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array(ignored or [0] * len(labels), np.bool_),
        ),
    )


def make_detections(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Instances:
    return make_instances(
        torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels).long()
    )


NOTHING = make_detections([], [], [])


def random_case(seed: int, images: int = 12) -> tuple[Records, list[Instances]]:
    """Objects of all sizes, some of them crowds; most are found, somewhat beside their place."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for _ in range(images):
        count = int(rng.integers(8))
        corners = rng.uniform(0, 400, (count, 2))
        boxes = np.concatenate([corners, corners + rng.choice([10, 50, 150], (count, 1))], axis=1)
        labels = rng.integers(2, size=count)
        ignored = rng.random(count) < 0.15
        records.append(make_record(boxes.tolist(), labels.tolist(), ignored.tolist()))
        found = np.concatenate([boxes, boxes, boxes[:, [1, 0, 3, 2]]])
        found += rng.normal(0, 3, found.shape)
        scores = rng.random(len(found))
        order = np.argsort(-scores)
        found_labels = np.where(
            rng.random(len(found)) < 0.8, np.tile(labels, 3), rng.integers(3, size=len(found))
        )
        detections.append(
            make_detections(found[order].tolist(), scores[order].tolist(), found_labels[order].tolist())
        )
    return Records(records), detections


def pycocotools_stats(records: Records, detections: list[Instances]) -> list[float]:
    """What pycocotools itself says, from COCO's own JSON."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (record, found) in enumerate(zip(records, detections, strict=True)):
        for box, label, ignored in zip(
            record.targets.boxes.tolist(), record.targets.labels, record.targets.ignored, strict=True
        ):
            x0, y0, x1, y1 = box
            annotations.append(
                {
                    "id": 1 + len(annotations),
                    "image_id": number,
                    "category_id": int(label),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": int(ignored),
                }
            )
        for (x0, y0, x1, y1), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            bbox = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": number, "category_id": label, "bbox": bbox, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(len(records))],
            "categories": [{"id": label, "name": name} for label, name in enumerate(CLASSES)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


@pytest.mark.parametrize("seed", range(4))
def test_metrics__are_pycocotools_own(seed: int) -> None:
    records, detections = random_case(seed)
    assert max(map(len, detections)) <= 100
    ours = coco_metrics(records, detections, CLASSES)
    stats = pycocotools_stats(records, detections)
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    assert [ours[name] for name in names] == pytest.approx(stats[:6], abs=1e-6)
    assert ours["AR"] == pytest.approx(stats[8], abs=1e-6)
    assert 0.05 < ours["AP"] < 0.95


def test_metrics__of_classes_average_to_the_whole() -> None:
    metrics = coco_metrics(*random_case(0), CLASSES)
    by_class = metrics["AP_class"]
    assert list(by_class) == list(CLASSES)
    assert by_class["cat"] is None  # found, but there is none to find
    assert metrics["AP"] == pytest.approx((by_class["ant"] + by_class["bee"]) / 2, abs=1e-6)


def test_metrics__count_more_than_100_detections_an_image() -> None:
    corners = [[x * 20.0, y * 20.0] for x in range(15) for y in range(10)]
    boxes = [[x, y, x + 10, y + 10] for x, y in corners]
    records = Records([make_record(boxes, [0] * 150)])
    found = make_detections(boxes, np.linspace(1, 0.5, 150).tolist(), [0] * 150)
    metrics = coco_metrics(records, [found], CLASSES)
    assert (metrics["AP"], metrics["AR"]) == (1, 1)
    assert pycocotools_stats(records, [found])[0] < 0.7


def test_metrics__are_none_where_there_is_no_object() -> None:
    small = [10.0, 10, 20, 20]
    metrics = coco_metrics(
        Records([make_record([small], [0])]), [make_detections([small], [0.9], [0])], CLASSES
    )
    assert (metrics["AP"], metrics["AP_small"]) == (1, 1)
    assert metrics["AP_medium"] is metrics["AP_large"] is metrics["AP_class"]["bee"] is None


def test_metrics__no_object_at_all() -> None:
    records = Records([make_record([], [])])
    for found in (NOTHING, make_detections([[1, 1, 9, 9]], [0.9], [0])):
        metrics = coco_metrics(records, [found], CLASSES)
        assert metrics["AP"] is metrics["AR"] is None


def test_metrics__nothing_found() -> None:
    records = Records([make_record([[10, 10, 20, 20]], [0]), make_record([], [])])
    metrics = coco_metrics(records, [NOTHING, NOTHING], CLASSES)
    assert (metrics["AP"], metrics["AP50"], metrics["AR"]) == (0, 0, 0)


def test_metrics__no_image() -> None:
    assert coco_metrics(Records([]), [], CLASSES)["AP"] is None


def test_metrics__a_crowd_is_neither_missed_nor_a_false_positive() -> None:
    records = Records([make_record([[10, 10, 30, 30], [100, 100, 300, 300]], [0, 0], [0, 1])])
    members = [[110.0, 110, 130, 130], [200.0, 200, 220, 220]]
    found = make_detections([*members, [10, 10, 30, 30]], [0.9, 0.8, 0.7], [0, 0, 0])
    assert coco_metrics(records, [found], CLASSES)["AP"] == 1


def test_metrics__print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    coco_metrics(*random_case(0), CLASSES)
    assert not capsys.readouterr().out
