"""Every format beside the reference, so that one sees whether the same boxes are read.

python benchmarks/formats.py DATA … [--fixtures FOLDER]

Each DATA holds val.json (COCO) and images/. It is written in each format that `convert` knows, in Azure's
JSON lines, and as two streams for Pipe mode; all are read back as a job reads them. FOLDER holds RecordIO
files that MXNet wrote, and expected.json with what MXNet and GluonCV read from them. Prints JSON, a row a
format and data set: records, boxes, how many of them equal the reference bit for bit, and the largest
difference in pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

CONTAINER = Path(__file__).resolve().parents[1] / "container"
sys.path.insert(0, str(CONTAINER))
from tilewise.commands.convert import FORMATS  # noqa: E402
from tilewise.data.channel import ChannelFolder, read_data_set  # noqa: E402
from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.data.checks import make_records  # noqa: E402
from tilewise.data.files.folder import Folder  # noqa: E402
from tilewise.data.formats.coco import read_coco  # noqa: E402
from tilewise.data.formats.recordio import read_record_files  # noqa: E402
from tilewise.data.pipe.channel import ChannelPipe  # noqa: E402
from tilewise.data.records import Record  # noqa: E402
from tilewise.data.writers.recordio import write_record  # noqa: E402

Row = dict[str, Any]
Known = dict[str, Record]
"""SHA-256 of an image's bytes -> the reference's record of it."""
Read = tuple[list[Record], tuple[str, ...]]
"""Records, and their classes' names by label."""


def digest(record: Record) -> str:
    """Names an image by its bytes: file names differ between the formats."""
    return hashlib.sha256(record.read()).hexdigest()


def compare(name: str, read: Read, known: Known, classes: tuple[str, ...]) -> Row:
    """A row of the table; every image of the reference must be there, with all its boxes and their classes.

    Classes are compared by their names, where the format has them: it may have put them in another order.
    """
    records, own = read
    number = [classes.index(one) if one in classes else label for label, one in enumerate(own)]
    count = boxes = equal = 0
    difference = 0.0
    for record in records:
        want = known[digest(record)]
        assert record.targets.boxes.shape == want.targets.boxes.shape, f"{name}: {record.key}"
        assert [number[label] for label in record.targets.labels] == want.targets.labels.tolist(), (
            f"{name}: {record.key}"
        )
        apart = np.abs(record.targets.boxes.astype(np.float64) - want.targets.boxes)
        count, boxes = count + 1, boxes + len(apart)
        equal += int((apart == 0).all(axis=1).sum())
        difference = max(difference, float(apart.max(initial=0)))
    assert count == len(known), f"{name}: {count} of {len(known)} records"
    return {
        "format": name,
        "records": count,
        "boxes": boxes,
        "equal": equal,
        "largest_difference_px": difference,
    }


def read_folder(folder: Path) -> Read:
    """A channel in File mode."""
    data = read_data_set({"train": ChannelFolder(folder)}, None, validates=False, seed=0)
    return list(data.train.one_pass()), data.classes


def read_pipe(folder: Path, stream: bytes, images: int, classes: int) -> Read:
    """A channel in Pipe mode, from a FIFO that a thread writes."""
    fifo = folder / "train_0"
    os.mkfifo(fifo)
    threading.Thread(target=lambda: fifo.write_bytes(stream), daemon=True).start()
    channel = ChannelPipe(folder / "train", "application/x-recordio", 1, images)
    with closing(read_data_set({"train": channel}, classes, validates=False, seed=0)) as data:
        return list(data.train.one_pass()), data.classes


def azure_lines(known: Known) -> str:
    """Azure AutoML's JSON lines of some records, classes by their numbers as names."""
    lines = []
    for record in known.values():
        scale = np.asarray([record.width, record.height] * 2, np.float64)
        label = [
            {
                "label": f"class {number:03}",
                **dict(zip(("topX", "topY", "bottomX", "bottomY"), box, strict=True)),
            }
            for number, box in zip(
                record.targets.labels.tolist(), (record.targets.boxes / scale).tolist(), strict=True
            )
        ]
        details = {"format": "jpg", "width": record.width, "height": record.height}
        url = f"azureml://subscriptions/x/datastores/y/paths/images/{record.path.name}"
        lines.append(json.dumps({"image_url": url, "image_details": details, "label": label}))
    return "\n".join(lines)


def manifest_stream(known: Known, path: Path) -> bytes:
    """An augmented manifest as SageMaker streams it: image and label alternate."""
    with path.open("wb") as file:
        for record in known.values():
            rows = [
                {
                    "class_id": number,
                    "left": box[0],
                    "top": box[1],
                    "width": box[2] - box[0],
                    "height": box[3] - box[1],
                }
                for number, box in zip(
                    record.targets.labels.tolist(), record.targets.boxes.tolist(), strict=True
                )
            ]
            write_record(file, record.read())
            write_record(file, json.dumps({"annotations": rows}).encode())
    return path.read_bytes()


def of_data_set(data: Path, work: Path) -> list[Row]:
    """All formats of one data set."""
    found = read_coco(data / "val.json", Folder(data / "images"))
    records = make_records(found.examples, ChannelIssues("val"))
    known = {digest(record): record for record in records}
    classes = found.classes or ()
    rows = [{"format": "coco, the reference", "records": len(known), "boxes": len(records.targets.labels)}]
    for name in FORMATS:
        target = work / name
        options = ["--annotations", str(data / "val.json"), "--to", name]
        command = [sys.executable, "-m", "tilewise", "convert", str(data), str(target), *options]
        environ = os.environ | {"PYTHONPATH": str(CONTAINER)}
        subprocess.run(command, env=environ, check=True, capture_output=True)
        rows.append(compare(name, read_folder(target), known, classes))
    azure = work / "azure"
    azure.mkdir()
    (azure / "train.jsonl").write_text(azure_lines(known), encoding="utf-8")
    images = azure / "images"
    images.mkdir()
    for record in known.values():
        (images / record.path.name).symlink_to(record.path.resolve())
    rows.append(compare("azure jsonl", read_folder(azure), known, classes))
    streams: dict[str, Callable[[Path], bytes]] = {
        "recordio, Pipe mode": lambda folder: (work / "recordio" / "train.rec").read_bytes(),
        "augmented manifest, Pipe mode": lambda folder: manifest_stream(known, folder / "stream"),
    }
    for number, (name, stream) in enumerate(streams.items()):
        folder = work / f"pipe{number}"
        folder.mkdir()
        got = read_pipe(folder, stream(folder), len(known), len(classes))
        rows.append(compare(name, got, known, classes))
    return rows


def of_fixtures(folder: Path) -> list[Row]:
    """MXNet's own files beside what MXNet and GluonCV read from them."""
    rows: list[Row] = []
    for name, facts in json.loads((folder / "expected.json").read_text())["sets"].items():
        counts = dict.fromkeys(("records", "boxes", "equal", "images_equal"), 0)
        examples = read_record_files({f"{name}.rec": folder / f"{name}.rec"}).examples
        for example, want in zip(examples, facts["records"], strict=True):
            if example.problem or not isinstance(want.get("gluoncv_boxes_px"), list):
                continue
            (record,) = make_records([example], ChannelIssues("train"))
            expected = np.asarray(want["gluoncv_boxes_px"], np.float32)[:, :4]
            expected = np.clip(expected, 0, [record.width, record.height] * 2)
            expected = expected[(expected[:, 2:] > expected[:, :2]).all(axis=1)]
            counts["records"] += 1
            counts["boxes"] += len(expected)
            counts["equal"] += int((record.targets.boxes == expected).all(axis=1).sum())
            counts["images_equal"] += int(digest(record) == want["image_sha256"])
        rows.append({"format": f"recordio by MXNet: {name}", **counts})
    return rows


def main() -> None:
    """Compare all and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--fixtures", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    table: dict[str, list[Row]] = {}
    for data in arguments.data:
        with tempfile.TemporaryDirectory() as work:
            table[data.name] = of_data_set(data, Path(work))
    if arguments.fixtures:
        table["fixtures"] = of_fixtures(arguments.fixtures)
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
