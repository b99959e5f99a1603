"""Images with one JSON file each, as SageMaker's built-in Object Detection takes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from tilewise.data.records import Record
from tilewise.data.writers.output import DEPTH, Output, corner_and_size


def label_content(record: Record, output: Output) -> dict[str, Any]:
    """``image_size`` and ``annotations``, as the built-in algorithm and Ground Truth write them."""
    sides = ("left", "top", "width", "height")
    return {
        "image_size": [{"width": record.width, "height": record.height, "depth": DEPTH}],
        "annotations": [
            {"class_id": box[0], **dict(zip(sides, corner_and_size(box), strict=True))}
            for box in output.boxes_of(record, holds_ignored=False)
        ],
    }


def write_image_json(records: Iterable[Record], classes: tuple[str, ...], output: Output) -> None:
    """Write ``images/`` and ``annotations/``: a job's channels ``train`` and ``train_annotation``."""
    for name in ("images", "annotations"):
        (output.folder / name).mkdir()
    categories = [{"class_id": index, "name": name} for index, name in enumerate(classes)]
    for record in records:
        name = output.put_image(record, "images")
        content = {"file": name, **label_content(record, output), "categories": categories}
        path = output.folder / "annotations" / f"{PurePosixPath(name).stem}.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
