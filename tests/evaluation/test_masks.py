"""Figures, matches and pictures of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tilewise.arrays import Array
from tilewise.data.records import Record, Records
from tilewise.evaluation import parts
from tilewise.evaluation.analysis import Scored, analyse
from tilewise.evaluation.coco import coco_metrics
from tilewise.evaluation.confusion import match
from tilewise.evaluation.evaluate import metrics
from tilewise.evaluation.overlap import encoded_masks
from tilewise.evaluation.pictures import make_picture
from tilewise.instances import Instances
from tilewise.masks import MASKS, Masks, RunLengths
from tilewise.rasters import Bitmap, runs_of
from tilewise.targets import Targets

# pycocotools 2.0.11 hands NumPy 2 an array without its keyword copy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
WIDTH, HEIGHT = 160, 120


def disc(x: float, y: float, radius: float) -> Bitmap:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    inside: Bitmap = (((columns - x) ** 2 + (rows - y) ** 2) < radius**2).astype(np.uint8)
    return inside


def masks_of(bitmaps: list[Bitmap | None]) -> Masks:
    shapes = [None if each is None else RunLengths(WIDTH, HEIGHT, runs_of(each)) for each in bitmaps]
    return Masks.of(shapes).crop((0, 0, WIDTH, HEIGHT), (WIDTH, HEIGHT))


def scene(images: int = 6) -> tuple[Records, list[Instances]]:
    rng = np.random.default_rng(3)
    records, found = [], []
    for number in range(images):
        places = rng.uniform(20, 100, (8, 2))
        radii = rng.uniform(3, 18, 8)
        truth = [disc(x, y, radius) for (x, y), radius in zip(places, radii, strict=True)]
        labels = rng.integers(0, 2, 8)
        masks = masks_of(list(truth))
        ignored = np.arange(8) == 7
        targets: Targets[Array] = Targets(masks.boxes, labels, ignored, {MASKS: masks})
        records.append(Record(f"{number}.png", Path("x.png"), WIDTH, HEIGHT, targets))
        moved = [
            disc(x + dx, y + dy, radius * share)
            for (x, y), radius, (dx, dy), share in zip(
                places, radii, rng.normal(0, 1.5, (8, 2)), rng.uniform(0.8, 1.3, 8), strict=True
            )
        ]
        order = np.argsort(-(scores := rng.random(8).astype(np.float32)), kind="stable")
        field = masks_of(list(moved))
        instances = Instances(field.boxes, scores, np.where(rng.random(8) < 0.9, labels, 1 - labels), {})
        instances = Instances(instances.boxes, scores, instances.labels, {MASKS: field})
        found.append(instances.select(order))
    return Records(records), found


def by_pycocotools(records: Records, detections: list[Instances]) -> dict[str, float]:
    truth: Any = COCO()
    rows: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (record, instances) in enumerate(zip(records, detections, strict=True), 1):
        for mask, label, ignored in zip(
            encoded_masks(record.targets, WIDTH, HEIGHT),
            record.targets.labels.tolist(),
            record.targets.ignored.tolist(),
            strict=True,
        ):
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": label + 1})
            rows[-1] |= {"segmentation": mask, "area": float(coco_masks.area(mask)), "iscrowd": int(ignored)}
            rows[-1]["bbox"] = coco_masks.toBbox(mask).tolist()
        for mask, (_, score, label) in zip(encoded_masks(instances, WIDTH, HEIGHT), instances, strict=True):
            results.append(
                {"image_id": number, "category_id": label + 1, "segmentation": mask, "score": score}
            )
    images = [{"id": number, "width": WIDTH, "height": HEIGHT} for number in range(1, len(records) + 1)]
    truth.dataset = {"images": images, "annotations": rows, "categories": [{"id": 1}, {"id": 2}]}
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    return dict(zip(names, evaluation.stats[:6].tolist(), strict=True))


def test_coco__figures_of_masks_are_pycocotools_own(capsys: pytest.CaptureFixture[str]) -> None:
    records, detections = scene()
    figures = metrics(records, detections, ("a", "b"))
    for name, value in by_pycocotools(records, detections).items():
        assert (figures[name] if figures[name] is not None else -1) == pytest.approx(value, abs=1e-6)
    assert figures["box"]["AP"] != figures["AP"] and figures["box"]["VOC_mAP"] > 0
    assert sum(size["objects"] for size in figures["AP_by_size"].values()) == 6 * 7


def test_voc__is_of_masks() -> None:
    square = np.zeros((HEIGHT, WIDTH), np.uint8)
    square[20:60, 20:60] = 1
    triangle = square * (np.mgrid[:HEIGHT, :WIDTH].sum(axis=0) < 76)
    truth = masks_of([triangle.astype(np.uint8)])
    targets: Targets[Array] = Targets(
        truth.boxes, np.zeros(1, np.int64), np.zeros(1, np.bool_), {MASKS: truth}
    )
    records = Records([Record("a", Path("a"), WIDTH, HEIGHT, targets)])
    found = masks_of([square])
    detection = Instances(truth.boxes, np.array([0.9], np.float32), np.zeros(1, np.int64), {MASKS: found})
    figures = metrics(records, [detection], ("a",))
    assert figures["VOC"]["mAP"] == 0.0  # 666 of 1600 pixels
    assert figures["box"]["VOC_mAP"] == 1.0 and figures["AP75"] == 0.0
    assert figures["box"]["AP75"] == 1.0


def test_objects_without_a_mask__are_ignored() -> None:
    records, detections = scene(1)
    known = np.arange(8) != 0
    masks = records.targets.fields[MASKS]
    assert isinstance(masks, Masks)
    partly = records.with_targets(
        Targets(
            records.targets.boxes,
            records.targets.labels,
            records.targets.ignored,
            {MASKS: masks.without(~known)},
        )
    )
    figures = metrics(partly, detections, ("a", "b"))
    assert sum(size["objects"] for size in figures["AP_by_size"].values()) == 6


def test_match_and_report__are_of_masks(tmp_path: Path) -> None:
    records, detections = scene(2)
    figures = metrics(records, detections, ("a", "b"))
    analysis = analyse(Scored(records, detections), ("a", "b"), figures)
    assert analysis.confusion.sum() > 0
    hits = match(records[0], detections[0])
    boxes_only = match(
        Records([records[0]]).with_targets(
            Targets(records[0].targets.boxes, records[0].targets.labels, records[0].targets.ignored)
        )[0],
        detections[0],
    )
    assert len(hits) == len(boxes_only) == len(detections[0])
    path = tmp_path / "a.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    record = records[0]
    drawn = Record("a", path, WIDTH, HEIGHT, record.targets)
    picture = make_picture(drawn, analysis.outcomes[0], ("a", "b"))
    assert "L" in picture.svg.split('<g class="truth">')[1].split("</g>")[0]


def test_figures__in_parts_as_of_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    records, detections = scene()
    whole = coco_metrics(records, detections, ("ant", "bee"))
    matches = [match(*pair).tolist() for pair in zip(records, detections, strict=True)]
    monkeypatch.setattr(parts, "MANY", -1)
    monkeypatch.setattr(parts, "PART", 1)
    assert any(len(list(parts.parts_of(*pair, 0.5))) > 1 for pair in zip(records, detections, strict=True))
    assert coco_metrics(records, detections, ("ant", "bee")) == whole
    assert [match(*pair).tolist() for pair in zip(records, detections, strict=True)] == matches
