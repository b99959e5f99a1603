"""Memory of the loader's worker processes beside that of the annotations, which they share.

Simulates a channel of many annotated images (one photograph, named as often as needed), starts loaders with
1, 4 and 8 workers in fresh processes, and prints as JSON what each process holds for itself alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))
from tilewise.data.channel import Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.decoding.decode import read_header
from tilewise.data.records import Record, Records
from tilewise.targets import Targets
from tilewise.training.dataloading.loader import LoaderConfig, make_loader, read_batch
from tilewise.views.view import Scaling

BATCH_SIZE = 8
BATCHES = 40


def memory(process: int | str) -> dict[str, float]:
    """MiB of a process: resident in all, and private to it."""
    sizes = {"Rss": 0.0, "Private_Dirty": 0.0, "Private_Clean": 0.0}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0]) / 1024
    return {
        "rss_mib": round(sizes["Rss"], 1),
        "private_mib": round(sizes["Private_Dirty"] + sizes["Private_Clean"], 1),
    }


def simulated(image: Path, images: int, boxes: int) -> Iterator[Record]:
    """Records that all show one image, each with boxes of its own."""
    header = read_header(image.read_bytes())
    rng = np.random.default_rng(0)
    sides = np.asarray([header.width, header.height], np.float32)
    for index in range(images):
        corners = rng.random((boxes, 2), np.float32) * (sides - 9)
        yield Record(
            key=f"folder/{index:08d}{image.suffix}",
            path=image,
            width=header.width,
            height=header.height,
            targets=Targets(
                np.concatenate([corners, corners + 8], axis=1),
                rng.integers(3, size=boxes),
                np.zeros(boxes, np.bool_),
            ),
        )


def measure(image: Path, images: int, boxes: int, workers: int) -> dict[str, Any]:
    """Load some batches with so many workers, then look at all processes."""
    bare = memory("self")
    records = Records(simulated(image, images, boxes))
    gc.collect()
    loader = make_loader(
        Split(records, ChannelIssues("train")),
        LoaderConfig(scaling=Scaling(square=320), batch_size=BATCH_SIZE, workers=workers, seed=0),
    )
    facts: dict[str, Any] = {}
    for number, batch in enumerate(loader):
        read_batch(batch)
        if number == BATCHES:
            facts = {
                "workers": workers,
                "before": bare,
                "main": memory("self"),
                "each_worker": [memory(child.pid or 0) for child in multiprocessing.active_children()],
            }
            break
    return {**facts, "pickled_records_mib": round(len(pickle.dumps(records)) / 2**20, 1)}


def main() -> None:
    """Measure in a process of its own for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with images below it")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=10, help="in each image")
    arguments = parser.parse_args()
    image = min(path for path in arguments.data.rglob("*") if path.suffix in (".jpg", ".png"))
    runs = []
    for workers in (1, 4, 8):
        read_end, write_end = os.pipe()
        if not os.fork():
            facts = measure(image, arguments.images, arguments.boxes, workers)
            os.write(write_end, json.dumps(facts).encode())
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as answer:
            runs.append(json.loads(answer.read()))
        os.wait()
    print(json.dumps({"images": arguments.images, "boxes": arguments.boxes * arguments.images, "runs": runs}))


if __name__ == "__main__":
    main()
