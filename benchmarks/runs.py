"""Training jobs of the benchmarks: each a process of its own, its figures kept in a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test")]

from lay_out import lay_out_job  # noqa: E402

FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")
COSTS = ("Mpx", "minutes")


def threads() -> int:
    """How many threads a job of this machine computes with."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def train_once(data: Path, hyperparameters: dict[str, str], weights: Path | None = None) -> dict[str, Any]:
    """Run one job and read what it left; with a file of ``weights`` it starts from these."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "ml"
        lay_out_job(data, base, hyperparameters)
        if weights is not None:
            _add_weights(base, weights)
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
        **{name: metrics[name] for name in FIGURES},
        "Mpx": round(sum(epoch["pixels"] for epoch in history) / 1e6),
        "minutes": round(minutes, 2),
        "images_per_second": round(images / sum(epoch["seconds"] for epoch in history), 1),
        "peak_GiB": float(peak[1]) if peak else None,
    }


def _add_weights(base: Path, weights: Path) -> None:
    channel = base / "input" / "data" / "pretrained"
    channel.mkdir()
    shutil.copyfile(weights, channel / weights.name)
    config = base / "input" / "config" / "inputdataconfig.json"
    channels = json.loads(config.read_text())
    config.write_text(json.dumps(channels | {"pretrained": channels["train"]}))


def train_seeds(
    data: Path, hyperparameters: dict[str, str], seeds: list[int], weights: Path | None, store: Path | None
) -> dict[int, dict[str, Any]]:
    """A job's figures for each seed; those that ``store``, a JSON lines file, has are not run anew."""
    runs = {}
    for seed in seeds:
        job = {
            "data": data.name,
            "weights": weights.name if weights else None,
            "hyperparameters": hyperparameters | {"seed": str(seed)},
        }
        known = (
            [json.loads(line) for line in store.read_text().splitlines()] if store and store.is_file() else []
        )
        found = [each["figures"] for each in known if all(each[key] == value for key, value in job.items())]
        if not found:
            found = [train_once(data, job["hyperparameters"], weights)]  # type: ignore[arg-type]
            if store:
                with store.open("a") as lines:
                    lines.write(json.dumps(job | {"figures": found[0]}) + "\n")
        runs[seed] = found[0]
    return runs


def summary(runs: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and the least and the largest AP and AP50."""
    values = {
        name: [run[name] for run in runs.values()]
        for name in FIGURES + COSTS
        if all(run[name] is not None for run in runs.values())
    }
    means: dict[str, Any] = {name: round(statistics.mean(of), 4) for name, of in values.items()}
    return means | {
        f"{name}_range": [round(end(values[name]), 4) for end in (min, max)] for name in ("AP", "AP50")
    }
