"""Labelling tools' own libraries beside Tilewise: each reads what the other wrote.

python benchmarks/labelling_tools.py PYTHON

PYTHON is that of an environment of its own with datumaro 1.13.12 and label-studio-sdk 2.1.2. A data set of
random boxes and polygons is written there in every format that datumaro knows for detection, and by Label
Studio's converter, and is read here; `convert` writes it here, and it is read there. Prints JSON: for each
format the images, the boxes, how many of them were read as they were written, and the largest difference in
pixels; or the sentence by which Tilewise refuses a format that it does not read.

Datumaro counts VOC's pixels from 0, where VOC and `convert` count from 1: a pixel between them is right.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CONTAINER = Path(__file__).resolve().parents[1] / "container"
CLASSES = ("ant", "bee", "wasp nest")
IMAGES = 40
EXPORTS = {
    "cvat": True,
    "label_me": True,
    "voc": False,
    "voc_detection": False,
    "coco_instances": True,
    "yolo": False,
    "yolo_ultralytics": False,
    "open_images": False,
    "kitti_detection": False,
    "datumaro": False,
    "wider_face": False,
    "mot_seq_gt": False,
}
"""What datumaro writes, and whether it has polygons."""

IMPORTS = {"cvat": "cvat", "coco": "coco", "voc": "voc_detection", "yolo": "yolo"}
"""``convert --to`` -> datumaro's name."""

STUDIO = {"JSON": "result.json", "JSON_MIN": "result.json", "COCO": "result.json", "VOC": "", "YOLO": ""}
Boxes = dict[str, list[list[float]]]
"""Stem of an image -> its objects: class, xmin, ymin, xmax, ymax."""


def make_objects() -> list[list[tuple[int, list[list[float]] | None, list[float]]]]:
    """For each image its objects: class, outline or None, box; none is without, which VOC would omit."""
    generator = np.random.default_rng(0)
    images = []
    for _ in range(IMAGES):
        objects: list[tuple[int, list[list[float]] | None, list[float]]] = []
        for index in range(int(generator.integers(1, 8))):
            x, y = generator.integers(0, 60, 2).tolist()
            width, height = generator.integers(3, 40, 2).tolist()
            box = [float(x), float(y), float(x + width), float(y + height)]
            outline = None
            if index == 2:
                points = np.round(generator.uniform(1, 90, (6, 2)), 2)
                outline = points.tolist()
                box = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
            objects.append((int(generator.integers(0, len(CLASSES))), outline, box))
        images.append(objects)
    return images


def write_there(folder: Path) -> None:
    """In the tools' environment: the data set in all of their formats, and what is in it."""
    images = make_objects()
    truth: dict[bool, Boxes] = {
        outlines: {
            f"img_{number:03}": [
                [label, *box] for label, outline, box in objects if outlines or outline is None
            ]
            for number, objects in enumerate(images)
        }
        for outlines in (False, True)
    }
    (folder / "truth.json").write_text(json.dumps({str(key): value for key, value in truth.items()}))
    pixels = [
        np.random.default_rng(number).integers(0, 255, (100, 110, 3)).astype(np.uint8)
        for number in range(len(images))
    ]
    _write_with_datumaro(folder, images, pixels)
    _write_with_label_studio(folder / "studio", images)


def _write_with_datumaro(folder: Path, images: Any, pixels: Any) -> None:
    annotation = importlib.import_module("datumaro.components.annotation")
    media = importlib.import_module("datumaro.components.media")
    item = importlib.import_module("datumaro.components.dataset_base").DatasetItem
    dataset = importlib.import_module("datumaro.components.dataset").Dataset
    for outlines in (False, True):
        items = []
        for number, objects in enumerate(images):
            rows = []
            for index, (label, outline, box) in enumerate(objects):
                marks = {
                    "label": label,
                    "id": index + 1,
                    "group": index + 1,
                    "attributes": {"occluded": False},
                }
                if outline is None:
                    x0, y0, x1, y1 = box
                    rows.append(annotation.Bbox(x0, y0, x1 - x0, y1 - y0, **marks))
                elif outlines:
                    rows.append(annotation.Polygon([value for point in outline for value in point], **marks))
            for subset in ("train", "val"):  # Ultralytics' form wants both
                picture = media.Image.from_numpy(pixels[number])
                name = f"img_{number:03}" if subset == "train" else f"val_{number:03}"
                if subset == "train" or number == 0:
                    items.append(item(name, subset=subset, media=picture, annotations=rows))
        whole = dataset.from_iterable(items, categories=list(CLASSES))
        train = [one for one in items if one.subset == "train"]
        alone = dataset.from_iterable(train, categories=list(CLASSES))
        for name, has_outlines in EXPORTS.items():
            if has_outlines == outlines:
                part = whole if name == "yolo_ultralytics" else alone
                part.export(str(folder / name), name, save_media=True)


def _write_with_label_studio(folder: Path, images: Any) -> None:
    """The tasks as its server exports them, and what its converter makes of them."""
    converter = importlib.import_module("label_studio_sdk.converter")
    folder.mkdir()
    labels = "".join(f'<Label value="{name}"/>' for name in CLASSES)
    config = f"""<View><Image name="image" value="$image"/>
      <RectangleLabels name="box" toName="image">{labels}</RectangleLabels>
      <PolygonLabels name="area" toName="image">{labels}</PolygonLabels></View>"""
    tasks = []
    for number, objects in enumerate(images):
        results = []
        for index, (label, outline, (x0, y0, x1, y1)) in enumerate(objects):
            kind, name, place = "polygonlabels", "area", {}
            if outline is None:
                kind, name = "rectanglelabels", "box"
                place = {"x": x0 / 1.1, "y": y0, "width": (x1 - x0) / 1.1, "height": y1 - y0, "rotation": 0}
            else:
                place = {"points": [[x / 1.1, y] for x, y in outline], "closed": True}
            results.append(
                {
                    "id": f"r{index}",
                    "type": kind,
                    "from_name": name,
                    "to_name": "image",
                    "original_width": 110,
                    "original_height": 100,
                    "image_rotation": 0,
                    "value": {**place, kind: [CLASSES[label]]},
                }
            )
        answer = {"id": number, "completed_by": 1, "was_cancelled": False, "result": results}
        times = dict.fromkeys(("created_at", "updated_at"), "2024-01-01T00:00:00Z")
        address = f"/data/upload/1/0123abcd-img_{number:03}.jpg"
        tasks.append({"id": number, "data": {"image": address}, "annotations": [answer | times]})
    (folder / "tasks.json").write_text(json.dumps(tasks))
    for form in STUDIO:
        tool = converter.Converter(config, str(folder), download_resources=False)
        tool.convert(str(folder / "tasks.json"), str(folder / form), form, is_dir=False)


def read_there(folder: Path, form: str) -> Boxes:
    """In the tools' environment: what datumaro reads in a folder that ``convert`` wrote."""
    dataset = importlib.import_module("datumaro.components.dataset").Dataset
    _lay_out(folder, form)
    found = dataset.import_from(str(folder), form)
    categories = next(iter(found.categories().values()))
    rows: Boxes = {}
    for item in found:
        stem = Path(item.id).name
        rows[stem] = []
        for one in item.annotations:
            if one.type.name == "bbox":
                x, y, width, height = one.get_bbox()
                label = CLASSES.index(categories[one.label].name)
                rows[stem].append([label, x, y, x + width, y + height])
    return rows


def _lay_out(folder: Path, form: str) -> None:
    """Lay out what ``convert`` wrote as datumaro looks for it: by subsets, and by its own lists."""
    if form == "coco":
        (folder / "annotations").mkdir()
        (folder / "coco.json").rename(folder / "annotations" / "instances_train.json")
    if form == "voc_detection":
        (folder / "ImageSets" / "Main").mkdir(parents=True)
        names = sorted(path.stem for path in (folder / "Annotations").iterdir())
        (folder / "ImageSets" / "Main" / "train.txt").write_text("\n".join(names))
        (folder / "labelmap.txt").write_text("".join(f"{name}:::\n" for name in CLASSES))
    if form == "yolo":
        text = (folder / "data.yaml").read_text().replace("train: images", "train: images/train")
        (folder / "data.yaml").write_text(text.replace("val: images\n", ""))
    for name in {"coco": ("images",), "yolo": ("images", "labels")}.get(form, ()):
        (folder / name).rename(folder / "train")
        (folder / name).mkdir()
        (folder / "train").rename(folder / name / "train")


def read_here(folder: Path, annotations: Path | None = None) -> Boxes:
    """What Tilewise reads in a folder."""
    sys.path.insert(0, str(CONTAINER))
    from tilewise.data.read import read_channel

    channel = read_channel(folder, annotations)
    found: Boxes = {}
    for record in channel.records:
        names = [CLASSES.index(channel.classes[label]) for label in record.targets.labels]
        rows = zip(names, record.targets.boxes.tolist(), strict=True)
        found[record.path.stem] = [[name, *box] for name, box in rows]
    return found


def _rounded(row: list[float]) -> list[int]:
    return [round(value) for value in row]


def compare(name: str, boxes: Boxes, truth: Boxes) -> dict[str, Any]:
    """A row of the table; a box is read as written where its class is the same, to 0.01 pixels."""
    total = equal = 0
    largest = 0.0
    for stem, rows in truth.items():
        total += len(rows)
        both = (rows, boxes.get(stem, []))
        one, other = (np.asarray(sorted(each, key=_rounded), np.float64).reshape(-1, 5) for each in both)
        if one.shape == other.shape:
            apart = np.abs(one - other)
            equal += int((apart <= 0.01).all(axis=1).sum())
            largest = max(largest, float(apart.max(initial=0)))
    images = len(set(boxes) & set(truth))
    return {
        "format": name,
        "images": images,
        "boxes": total,
        "read_as_written": equal,
        "largest_difference_px": round(largest, 6),
    }


def _attempt(name: str, read: Callable[[], Boxes], truth: Boxes) -> dict[str, Any]:
    from tilewise.errors import UserError

    try:
        return compare(name, read(), truth)
    except UserError as error:
        return {"format": name, "refused": str(error).partition("of a known form: ")[2] or str(error)}


def main() -> None:
    """Write and read there and here, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("python", type=Path)
    parser.add_argument("--write", type=Path, help="write everything there")
    parser.add_argument("--read", type=Path, help="read this folder there")
    parser.add_argument("--form", help="datumaro's name of its format")
    arguments = parser.parse_args()
    if arguments.write:
        write_there(arguments.write)
        return
    if arguments.read:
        print(json.dumps(read_there(arguments.read, arguments.form)))
        return
    sys.path.insert(0, str(CONTAINER))
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(_rows(arguments.python, Path(work)), indent=1))


def _rows(python: Path, work: Path) -> dict[str, list[dict[str, Any]]]:
    def there(*options: str) -> str:
        command = [str(python), __file__, str(python), *options]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stderr)
        return run.stdout

    there("--write", str(work))
    truth: dict[str, Boxes] = json.loads((work / "truth.json").read_text())
    boxes, outlines = truth["False"], truth["True"]
    written = [
        _attempt(f"datumaro {name}", lambda name=name: read_here(work / name), outlines if has else boxes)  # type: ignore[misc]
        for name, has in EXPORTS.items()
    ]
    images = work / "cvat" / "images"
    for form in ("tasks.json", "JSON", "JSON_MIN", "COCO"):
        place = work / "studio" / form
        file = place if place.is_file() else next(place.glob("*.json"))
        written.append(
            _attempt(f"label studio {form}", lambda file=file: read_here(images, file), outlines)  # type: ignore[misc]
        )
    back = []
    for name, form in IMPORTS.items():
        target = work / f"here-{name}"
        command = [sys.executable, "-m", "tilewise", "convert", str(work / "cvat"), str(target), "--to", name]
        subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(CONTAINER)}, check=True, capture_output=True
        )
        back.append(
            compare(
                f"convert --to {name}", json.loads(there("--read", str(target), "--form", form)), outlines
            )
        )
    return {"written by the tools, read by Tilewise": written, "written by Tilewise, read by datumaro": back}


if __name__ == "__main__":
    main()
