"""How fast RecordIO is read, beside the disk's own rate and plain decoding, in one run.

python benchmarks/read_recordio.py DATA [--megabytes 1024] [--folder WHERE]

Packs the images below DATA into one file, as often as it takes, and prints as JSON the records and megabytes
a second of: finding all records (the index), reading every image in order and shuffled; each cold (the file
dropped from the page cache) and warm, and each right after the file's bytes were read in order in the same
state (the disk's own rate). Then decoding alone, of images that lie in memory, and reading and decoding.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))
from tilewise.data.decoding.decode import decode_image
from tilewise.data.recordio import scan
from tilewise.data.records import open_encoded
from tilewise.data.writers.recordio import pack, write_record

CHUNK = 1 << 20
LABELS = [2, 5, *([0, 0.1, 0.1, 0.5, 0.5] * 10)]
MAX_DECODED = 2000


def write(images: list[bytes], path: Path, megabytes: int) -> int:
    """Write a file of about that size; returns the number of records."""
    number = 0
    with path.open("wb") as file:
        while file.tell() < megabytes * 1_000_000:
            write_record(file, pack(number, LABELS, images[number % len(images)]))
            number += 1
        file.flush()
        os.fsync(file.fileno())
    return number


def drop(path: Path) -> None:
    """Take the file out of the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_bytes(path: Path) -> None:
    """All of the file, in order."""
    with path.open("rb", buffering=0) as file:
        while file.read(CHUNK):
            pass


def read_images(path: Path, offsets: Iterable[int], use: Callable[[bytes], object] = len) -> None:
    """The images at some offsets, each used."""
    for offset in offsets:
        with open_encoded(path, offset) as file:
            use(file.read())


def decode(images: Iterable[bytes]) -> None:
    """Decode images, and keep none."""
    for image in images:
        decode_image(image)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument(
        "--folder", type=Path, help="where the file is written; default: the folder for temporary files"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(path for path in arguments.data.rglob("*") if path.suffix in (".jpg", ".png"))
    images = [path.read_bytes() for path in paths]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "data.rec"
        count = write(images, path, arguments.megabytes)
        offsets = [record.offset for record in scan(path)]
        assert len(offsets) == count
        shuffled = random.Random(0).sample(offsets, count)
        size = path.stat().st_size
        steps: dict[str, Callable[[], object]] = {
            "index": lambda: sum(1 for _ in scan(path)),
            "images in order": lambda: read_images(path, offsets),
            "images shuffled": lambda: read_images(path, shuffled),
        }
        figures: dict[str, Any] = {"records": count, "megabytes": round(size / 1e6), "decoded": MAX_DECODED}
        for name, step in steps.items():
            for state in ("cold", "warm"):
                for what, run in (("the disk beside it", lambda: read_bytes(path)), (name, step)):
                    if state == "cold":
                        drop(path)
                    figures.setdefault(f"{name}, {state}", {})[what] = rates(run, count, size)
        some = shuffled[:MAX_DECODED]
        share = size * len(some) // count
        in_memory = [images[index % len(images)] for index in range(len(some))]
        figures["decoding alone"] = rates(lambda: decode(in_memory), len(some), share)
        drop(path)
        both = rates(lambda: read_images(path, some, decode_image), len(some), share)
        figures["images shuffled and decoded, cold"] = both
    print(json.dumps(figures, indent=2))


def rates(step: Callable[[], object], records: int, size: int) -> dict[str, float]:
    """Run a step once; records and megabytes a second."""
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    return {"records/s": round(records / seconds), "MB/s": round(size / seconds / 1e6, 1)}


if __name__ == "__main__":
    main()
