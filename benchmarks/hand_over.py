"""What a batch costs the process that trains when it comes from a loader process: prints JSON.

python benchmarks/hand_over.py [--views 4 16 64] [--size 640] [--rounds 20]

Beside Tilewise's batch, four tensors however many views, the samples as they are, four tensors each: what a
collate function that only gathers sends. Milliseconds of the receiver's CPU, the median of the rounds;
the batch lies ready before it is asked for. Without a GPU, so without the copy into pinned memory, for which
DataLoader has a thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container")]

from tilewise.targets import Targets  # noqa: E402
from tilewise.training.dataloading.batch import Batch  # noqa: E402
from tilewise.views.sample import Sample  # noqa: E402

BOXES = 20


class Views(Dataset[Sample]):
    """Views of one grey each, with some boxes."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Sample:
        pixels = torch.full((3, self.size, self.size), index % 256, dtype=torch.uint8)
        labels = torch.zeros(BOXES, dtype=torch.int64)
        return Sample(pixels, Targets(torch.rand(BOXES, 4), labels, labels > 0))


def as_they_are(samples: list[Sample]) -> list[Sample]:
    """No collation."""
    return samples


WAYS: dict[str, Callable[[list[Sample]], Any]] = {"samples": as_they_are, "batch": Batch.of}


def milliseconds(way: str, views: int, size: int, rounds: int) -> float:
    """Of the receiving process's CPU, for one batch."""
    loader = DataLoader(Views(size), batch_size=views, collate_fn=WAYS[way], num_workers=1)
    batches, costs = iter(loader), []
    next(batches)
    for _ in range(rounds):
        time.sleep(0.1 + views * size**2 / 2e8)  # the loader process makes the next ones
        start = time.process_time()
        next(batches)
        costs.append(1e3 * (time.process_time() - start))
    return round(statistics.median(costs), 2)


def main() -> None:
    """Measure both ways with each number of views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--views", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for views in arguments.views:
        costs = {way: milliseconds(way, views, arguments.size, arguments.rounds) for way in WAYS}
        runs.append({"views": views, **costs, "ratio": round(costs["samples"] / costs["batch"], 1)})
    print(json.dumps({"size": arguments.size, "unit": "ms of CPU for a batch", "runs": runs}, indent=2))


if __name__ == "__main__":
    main()
