"""A stream that is larger than the memory it may take, through Pipe mode's reader and loader: prints JSON.

python benchmarks/pipe_stream.py DATA [--gigabytes 3] [--decode-gigabytes 0.3] [--batch-size 16]

A process of its own writes the images below DATA (a few hundred, over and over) as image records into a FIFO.
Two more read it, one after the other: the first takes shuffled batches as they go to the loader, the second
(fewer gigabytes) the loader's samples, decoded and augmented. For each: how many seconds after the writer
began it had its first batch, records and megabytes a second, and the peak of its memory (RSS, in MB) before
the stream with everything imported, half way, and at the end: the last two should be nearly the same, however
long the stream is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

MAGIC = 0xCED7230A
LABELS = [2.0, 5.0, *([0.0, 0.1, 0.1, 0.5, 0.5] * 10)]
MAX_IMAGES = 400
SUFFIXES = {".jpg", ".jpeg", ".png"}


def read_images(data: Path) -> list[bytes]:
    """Some hundred encoded images, none with an aligned magic, at which a record would have to be split."""
    paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES)
    images = [path.read_bytes() for path in paths[:: -(-len(paths) // MAX_IMAGES)]]
    return [image for image in images if struct.pack("<I", MAGIC) not in image]


def record(number: int, image: bytes) -> bytes:
    """An image record as im2rec writes it."""
    content = struct.pack(f"<IfQQ{len(LABELS)}f", len(LABELS), 0, number, 0, *LABELS) + image
    return struct.pack("<II", MAGIC, len(content)) + content + bytes(-len(content) % 4)


def write(data: Path, fifo: Path, count: int) -> None:
    """Write so many records, as fast as they are taken, and print when that began and their bytes."""
    images = read_images(data)
    written = 0
    with fifo.open("wb", buffering=0) as file:
        began = time.time()
        for number in range(count):
            rest = memoryview(record(number, images[number % len(images)]))
            written += len(rest)
            while rest:
                rest = rest[file.write(rest) :]
    print(json.dumps({"began": began, "bytes": written}))


def peak_megabytes() -> float:
    """The highest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, 1)


def read(fifo: Path, batch_size: int, count: int, *, decode: bool) -> None:
    """Take all batches of a stream of so many records, and print the figures."""
    import torch
    from tilewise.data.classes import ClassIds
    from tilewise.data.pipe.buffer import Pipe, buffer_bytes
    from tilewise.data.pipe.stream import Stream
    from tilewise.training.dataloading.loader import LoaderConfig, default_workers, make_loader
    from tilewise.training.dataloading.pipe_sampler import PipeSampler
    from tilewise.views.view import Scaling

    torch.set_num_threads(1)
    peaks = {"before": peak_megabytes()}
    stream = Stream(
        "train", Pipe(fifo.with_name("train"), 1, buffer_bytes() // 8 * 7), ClassIds(1), expected=count
    )
    workers = default_workers()
    scaling = Scaling(square=300)
    batches: Iterable[Any] = (
        make_loader(stream, LoaderConfig(scaling=scaling, batch_size=batch_size, workers=workers, seed=0))
        if decode
        else PipeSampler(stream, batch_size, seed=0)
    )
    first = 0.0
    for _ in batches:
        first = first or time.time()
        if "half_way" not in peaks and stream.issues.images >= count / 2:
            peaks["half_way"] = peak_megabytes()
    peaks["end"] = peak_megabytes()
    stream.finish_pass()
    stream.close()
    facts = {"first": first, "ended": time.time(), "peak_MB": peaks, "buffer_MB": buffer_bytes() / 1e6}
    print(json.dumps({**facts, "workers": workers} if decode else facts))


def run(arguments: argparse.Namespace, gigabytes: float, *, decode: bool) -> dict[str, Any]:
    """One writer and one reader."""
    mean = sum(map(len, map(partial(record, 0), images := read_images(arguments.data)))) / len(images)
    count = int(gigabytes * 1e9 / mean)
    common = [str(arguments.data), "--batch-size", str(arguments.batch_size), "--count", str(count)]
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(fifo := Path(folder) / "train_0")
        command = [sys.executable, __file__, *common, "--fifo", str(fifo), "--role"]
        reader = subprocess.Popen([*command, "decode" if decode else "read"], stdout=subprocess.PIPE)
        with reader, subprocess.Popen([*command, "write"], stdout=subprocess.PIPE) as writer:
            writer_said, reader_said = (json.loads(process.communicate()[0]) for process in (writer, reader))
    began, first, ended = writer_said["began"], reader_said.pop("first"), reader_said.pop("ended")
    return {
        "gigabytes": round(writer_said["bytes"] / 1e9, 3),
        "records": count,
        "seconds_to_first_batch": round(first - began, 3),
        "records_per_second": round(count / (ended - began), 1),
        "MB_per_second": round(writer_said["bytes"] / 1e6 / (ended - began), 1),
        **reader_said,
    }


def main() -> None:
    """Run both readers and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--decode-gigabytes", type=float, default=0.3)
    parser.add_argument("--batch-size", type=int, default=16)
    for own in ("--role", "--fifo", "--count"):  # of the processes that this one starts
        parser.add_argument(own, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "write":
        write(arguments.data, Path(arguments.fifo), int(arguments.count))
    elif arguments.role:
        decode = arguments.role == "decode"
        read(Path(arguments.fifo), arguments.batch_size, int(arguments.count), decode=decode)
    else:
        result = {
            "data": arguments.data.name,
            "threads": os.cpu_count(),
            "batch_size": arguments.batch_size,
            "batches": run(arguments, arguments.gigabytes, decode=False),
            "loader": run(arguments, arguments.decode_gigabytes, decode=True),
        }
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
