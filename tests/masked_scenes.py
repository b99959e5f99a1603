"""A channel of discs and rings with masks, in COCO's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks


def write_scenes(folder: Path, count: int, size: tuple[int, int] = (128, 96), *, masks: bool = True) -> None:
    """Images of three discs each, of two classes by their colour; the first image has none.

    The last image's objects have no masks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        pixels = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
        name = f"{number:03}.png"
        for place in range(3 if number > 1 else 0):
            x, y = 22 + 42 * place + rng.integers(-4, 5), rng.integers(24, height - 24)
            label = int(rng.integers(2))
            disc = ((columns - x) ** 2 + (rows - y) ** 2) < int(rng.integers(10, 18)) ** 2
            pixels[disc] = ((220, 40, 40), (40, 40, 220))[label]
            runs = coco_masks.encode(np.asfortranarray(disc.astype(np.uint8)))
            row: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": label + 1,
                "bbox": coco_masks.toBbox(runs).tolist(),
                "iscrowd": 0,
            }
            if masks and number < count:
                row["segmentation"] = {"size": [height, width], "counts": runs["counts"].decode()}
            annotations.append(row)
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
