"""What the demo's training reaches on a data set, over several seeds: prints JSON.

python benchmarks/from_scratch.py DATA [--seeds 0 1 2] [name=value …]

DATA holds train.json, val.json (COCO) and images/. Each seed is one training job, a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test")]

from demo_job import demo_hyperparameters  # noqa: E402
from lay_out import find_coco_files, lay_out_job  # noqa: E402

FIGURES = ("AP", "AP50", "AP_small")
OTHER_FIGURES = ("AP_medium", "AP_large")


def train_once(data: Path, hyperparameters: dict[str, str]) -> dict[str, Any]:
    """Run one job and read what it left."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "ml"
        lay_out_job(data, base, hyperparameters)
        start = time.monotonic()
        command = [sys.executable, str(ROOT / "train")]
        environ = os.environ | {"SAGEMAKER_BASE_DIR": str(base)}
        log = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
        minutes = (time.monotonic() - start) / 60
        metrics = json.loads((base / "model" / "model.json").read_text())["metrics"]
        history = json.loads((base / "output" / "data" / "metrics.json").read_text())["epochs"]
    peak = re.search(r"peak memory: (\S+) GiB", log)
    images = sum(epoch["records"] for epoch in history)
    return {
        **{name: metrics[name] for name in FIGURES + OTHER_FIGURES},
        "Mpx": round(sum(epoch["pixels"] for epoch in history) / 1e6),
        "minutes": round(minutes, 2),
        "images_per_second": round(images / sum(epoch["seconds"] for epoch in history), 1),
        "peak_GiB": float(peak[1]) if peak else None,
    }


def main() -> None:
    """Run the seeds and print their figures, mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    images = len(json.loads(find_coco_files(arguments.data)[0].read_text())["images"])
    chosen = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    hyperparameters = demo_hyperparameters(images, chosen)
    runs = {
        seed: train_once(arguments.data, hyperparameters | {"seed": str(seed)}) for seed in arguments.seeds
    }
    spread = {
        name: [round(pick(run[name] for run in runs.values()), 4) for pick in (min, statistics.mean, max)]
        for name in FIGURES
    }
    result = {
        "data": arguments.data.name,
        "threads": os.cpu_count(),
        "hyperparameters": hyperparameters,
        "seeds": runs,
        "min_mean_max": spread,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
