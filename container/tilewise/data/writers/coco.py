"""Images and one COCO JSON file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from typing import IO, Any

from tilewise.data.records import Record
from tilewise.data.writers.output import Output, corner_and_size


class _Rows:
    """A JSON list in a file, row by row."""

    def __init__(self, file: IO[str]):
        self._file, self.count = file, 0

    def add(self, row: Any) -> None:
        self._file.write((",\n" if self.count else "") + _text(row))
        self.count += 1


def write_coco(records: Iterable[Record], classes: tuple[str, ...], output: Output) -> None:
    """Write ``images/`` and ``coco.json``; all ids count from 1, and ignored boxes are crowds."""
    (output.folder / "images").mkdir()
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
    with (
        (output.folder / "coco.json").open("x", encoding="utf-8") as file,
        tempfile.TemporaryFile("w+", encoding="utf-8") as later,
    ):
        file.write(f'{{"categories": {_text(categories)},\n"images": [\n')
        images, annotations = _Rows(file), _Rows(later)
        for record in records:
            _add(record, images, annotations, output)
        file.write('\n],\n"annotations": [\n')
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write("\n]}\n")


def _add(record: Record, images: _Rows, annotations: _Rows, output: Output) -> None:
    image = {
        "id": images.count + 1,
        "file_name": output.put_image(record, "images"),
        "width": record.width,
        "height": record.height,
    }
    images.add(image)
    for box in output.boxes_of(record, holds_ignored=True):
        bbox = corner_and_size(box)
        annotations.add(
            {
                "id": annotations.count + 1,
                "image_id": image["id"],
                "category_id": box[0] + 1,
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": int(box[-1]),
            }
        )


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)
