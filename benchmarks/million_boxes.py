"""What it takes to read a million boxes on a hundred thousand images: prints JSON.

python benchmarks/million_boxes.py [--images 100000] [--boxes 10]

Makes a COCO file with links to one small JPEG, a RecordIO file and the labelling tools' exports of the same
images and boxes, and reads each as a job does, in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

SIDE = 64
CLASSES = 10
LINKS = 50_000  # ext4 allows 65,000 for a file

Boxes = npt.NDArray[np.float64]


def make_boxes(images: int, each: int) -> Boxes:
    """(images, each, 4) corners in whole pixels."""
    generator = np.random.default_rng(0)
    start = generator.integers(0, SIDE // 2, (images, each, 2))
    end = start + generator.integers(4, SIDE // 2, (images, each, 2))
    return np.concatenate([start, end], axis=2).astype(np.float64)


def jpeg() -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (90, 120, 30)).save(file, "JPEG")
    return file.getvalue()


def write_images(folder: Path, count: int) -> None:
    """Links to one image."""
    folder.mkdir(parents=True)
    for image in range(count):
        path = folder / f"{image:012}.jpg"
        if image % LINKS:
            os.link(folder / f"{image - image % LINKS:012}.jpg", path)
        else:
            path.write_bytes(jpeg())


def write_coco(folder: Path, boxes: Boxes) -> None:
    """The images and one COCO file with the keys that its own have, without outlines."""
    write_images(folder / "images", len(boxes))
    rows: list[dict[str, Any]] = []
    for image, its in enumerate(boxes.tolist()):
        for x0, y0, x1, y1 in its:
            number = len(rows)
            box = [x0, y0, x1 - x0, y1 - y0]
            category = 1 + number % CLASSES
            rows.append(
                {
                    "id": number,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
    content = {
        "images": [
            {"id": image, "file_name": f"{image:012}.jpg", "width": SIDE, "height": SIDE}
            for image in range(len(boxes))
        ],
        "annotations": rows,
        "categories": [{"id": 1 + number, "name": f"class {number}"} for number in range(CLASSES)],
    }
    (folder / "train.json").write_text(json.dumps(content))


def write_recordio(folder: Path, boxes: Boxes) -> None:
    """One ``.rec`` file of the same."""
    folder.mkdir(parents=True)
    image = jpeg()
    classes = np.arange(boxes.shape[0] * boxes.shape[1]).reshape(boxes.shape[:2]) % CLASSES
    labels = np.concatenate([classes[..., None], boxes / SIDE], axis=2).astype("<f4")
    with (folder / "train.rec").open("wb") as file:
        for number, rows in enumerate(labels):
            label = np.asarray([2, 5], "<f4").tobytes() + rows.tobytes()
            content = struct.pack("<IfQQ", len(label) // 4, 0.0, number, 0) + label + image
            file.write(struct.pack("<II", 0xCED7230A, len(content)) + content + bytes(-len(content) % 4))


def write_cvat(folder: Path, boxes: Boxes) -> None:
    """One XML file as "CVAT for images 1.1"."""
    write_images(folder / "images", len(boxes))
    labels = "".join(f"<label><name>class {number}</name></label>" for number in range(CLASSES))
    with (folder / "annotations.xml").open("w") as file:
        file.write(
            f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>\n"
        )
        for image, its in enumerate(boxes.tolist()):
            file.write(f'<image id="{image}" name="{image:012}.jpg" width="{SIDE}" height="{SIDE}">\n')
            for index, (x0, y0, x1, y1) in enumerate(its):
                place = f'xtl="{x0:.2f}" ytl="{y0:.2f}" xbr="{x1:.2f}" ybr="{y1:.2f}"'
                label = f'label="class {index % CLASSES}"'
                file.write(f'<box {label} source="manual" occluded="0" {place} z_order="0"></box>\n')
            file.write("</image>\n")
        file.write("</annotations>\n")


def write_label_studio(folder: Path, boxes: Boxes) -> None:
    """One JSON file with the keys that Label Studio's own have."""
    write_images(folder / "images", len(boxes))
    with (folder / "project.json").open("w") as file:
        for image, its in enumerate((boxes * 100 / SIDE).tolist()):
            results = [
                {
                    "original_width": SIDE,
                    "original_height": SIDE,
                    "image_rotation": 0,
                    "value": {
                        **{"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0},
                        "rectanglelabels": [f"class {index % CLASSES}"],
                    },
                    "id": f"r{index}",
                    "from_name": "label",
                    "to_name": "image",
                    "type": "rectanglelabels",
                    "origin": "manual",
                }
                for index, (x0, y0, x1, y1) in enumerate(its)
            ]
            answer = {"id": image, "was_cancelled": False, "ground_truth": False, "result": results}
            data = {"image": f"/data/upload/1/{image:012}.jpg"}
            task = {"id": image, "annotations": [answer], "predictions": [], "data": data}
            file.write(("," if image else "[") + json.dumps(task))
        file.write("]")


def write_via(folder: Path, boxes: Boxes) -> None:
    """Annotations as JSON."""
    write_images(folder / "images", len(boxes))
    with (folder / "via.json").open("w") as file:
        for image, its in enumerate(boxes.tolist()):
            regions = [
                {
                    "shape_attributes": {
                        "name": "rect",
                        "x": x0,
                        "y": y0,
                        "width": x1 - x0,
                        "height": y1 - y0,
                    },
                    "region_attributes": {"class": f"class {index % CLASSES}"},
                }
                for index, (x0, y0, x1, y1) in enumerate(its)
            ]
            name = f"{image:012}.jpg"
            entry = {"filename": name, "size": 1, "regions": regions, "file_attributes": {}}
            file.write(("," if image else "{") + json.dumps({f"{name}1": entry})[1:-1])
        file.write("}")


def write_labelme(folder: Path, boxes: Boxes) -> None:
    """A JSON file beside each image."""
    write_images(folder, len(boxes))
    for image, its in enumerate(boxes.tolist()):
        shapes: list[dict[str, Any]] = [
            {
                "label": f"class {index % CLASSES}",
                "points": [[x0, y0], [x1, y1]],
                "group_id": None,
                "shape_type": "rectangle",
                "flags": {},
            }
            for index, (x0, y0, x1, y1) in enumerate(its)
        ]
        content = {"version": "5.4.1", "shapes": shapes, "imagePath": f"{image:012}.jpg", "imageData": None}
        path = folder / f"{image:012}.json"
        path.write_text(json.dumps(content | {"imageHeight": SIDE, "imageWidth": SIDE}))


WRITERS = {
    "COCO": write_coco,
    "RecordIO": write_recordio,
    "CVAT": write_cvat,
    "Label Studio": write_label_studio,
    "VIA": write_via,
    "LabelMe": write_labelme,
}


def measure(folder: Path) -> dict[str, Any]:
    """Read a channel in this process."""
    from tilewise.data.channel import ChannelFolder, read_data_set

    before = _peak_mib()
    start, start_cpu = time.monotonic(), time.process_time()
    data = read_data_set({"train": ChannelFolder(folder)}, None, validates=False, seed=0)
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - start_cpu
    records = data.train.sample
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_MiB": round(_peak_mib()),
        "peak_MiB_before_reading": round(before),
        "images": len(records),
        "boxes": len(records.targets.labels),
        "worker_gets_MiB": round(len(pickle.dumps(records)) / 2**20, 1),
    }


def _peak_mib() -> float:
    """Of this process only: getrusage's figure begins with that of the process which started this one."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def main() -> None:
    """Make the files, read each in a new process, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=10, help="of each image")
    parser.add_argument("--formats", nargs="+", default=[*WRITERS], choices=WRITERS)
    parser.add_argument("--here", type=Path, metavar="FOLDER", help="read this channel in this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.here)))
        return
    result: dict[str, Any] = {"threads": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        for format in arguments.formats:
            channel = Path(folder) / format / "train"
            WRITERS[format](channel, make_boxes(arguments.images, arguments.boxes))
            command = [sys.executable, __file__, "--here", str(channel)]
            result[format] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
