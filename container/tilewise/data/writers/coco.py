"""Images and one COCO JSON file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, Any

from pycocotools import mask as coco_masks

from tilewise.arrays import Array
from tilewise.data.records import Record
from tilewise.data.writers.output import Output, corner_and_size
from tilewise.data.writers.polygons import MaskForm, flat, rings_of
from tilewise.masks import Masks, Outline, RunLengths, Shape


class _Rows:
    """A JSON list in a file, row by row."""

    def __init__(self, file: IO[str]):
        self._file, self.count = file, 0

    def add(self, row: Any) -> None:
        self._file.write((",\n" if self.count else "") + _text(row))
        self.count += 1


def write_coco(
    records: Iterable[Record], classes: tuple[str, ...], output: Output, *, masks: MaskForm = "as-read"
) -> None:
    """Write ``images/`` and ``coco.json``; all ids count from 1, and ignored boxes are crowds.

    Masks are polygons or compressed run lengths, as they were read or as ``masks`` says. Polygons of COCO's
    cannot have holes: a mask with one is written as run lengths.
    """
    (output.folder / "images").mkdir()
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
    with (
        (output.folder / "coco.json").open("x", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as later,
    ):
        file.write(f'{{"categories": {_text(categories)},\n"images": [\n')
        images, annotations = _Rows(file), _Rows(later)
        for record in records:
            _add(record, images, annotations, output, masks)
        file.write('\n],\n"annotations": [\n')
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write("\n]}\n")


def _add(record: Record, images: _Rows, annotations: _Rows, output: Output, masks: MaskForm) -> None:
    image = {
        "id": images.count + 1,
        "file_name": output.put_image(record, "images"),
        "width": record.width,
        "height": record.height,
    }
    images.add(image)
    boxes = output.boxes_of(record, holds_ignored=True)
    shapes = output.masks_of(record, holds_ignored=True)
    for box, shape in zip(boxes, shapes, strict=True):
        bbox = corner_and_size(box)
        annotation = {
            "id": annotations.count + 1,
            "image_id": image["id"],
            "category_id": box[0] + 1,
            "bbox": bbox,
            "area": bbox[2] * bbox[3],
            "iscrowd": int(box[-1]),
        }
        if shape is not None:
            annotation |= _segmentation(shape, record, masks, output)
        annotations.add(annotation)


def _segmentation(shape: Shape, record: Record, form: MaskForm, output: Output) -> dict[str, Any]:
    """``segmentation``, and ``area``, which COCO counts in the mask's pixels."""
    (runs,) = Masks.of([shape]).encoded(record.width, record.height)
    assert runs is not None
    area = int(coco_masks.area(runs))
    if form == "rle" or (form == "as-read" and isinstance(shape, RunLengths)):
        return {"segmentation": {**runs, "counts": runs["counts"].decode()}, "area": area}
    rings = shape.rings if isinstance(shape, Outline) else rings_of(shape)
    if len(rings) > 1 and coco_masks.area(coco_masks.merge(_polygons(rings, record))) != area:
        output.notes["masks with holes, which COCO's polygons cannot have, written as run lengths"] += 1
        return {"segmentation": {**runs, "counts": runs["counts"].decode()}, "area": area}
    return {"segmentation": [flat(ring) for ring in rings], "area": area}


def _polygons(rings: Sequence[Array], record: Record) -> Any:
    return coco_masks.frPyObjects([ring.reshape(-1).tolist() for ring in rings], record.height, record.width)


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)
