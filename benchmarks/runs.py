"""Training jobs of the benchmarks: each a process of its own, its figures kept in a file."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "container")]

from demo_job import HYPERPARAMETERS  # noqa: E402
from lay_out import find_coco_files, lay_out_job  # noqa: E402
from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.data.checks import make_records  # noqa: E402
from tilewise.data.files.folder import Folder  # noqa: E402
from tilewise.data.formats.coco import read_coco  # noqa: E402
from tilewise.data.records import Records  # noqa: E402

FIGURES = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")
EIGHT = ("AP", "AP_small", "AP_medium", "AP_large", "AR", "AR_small", "AR_medium", "AR_large")
COSTS = ("Mpx", "minutes")

SSDLITE = HYPERPARAMETERS | {
    "model_name": "ssdlite_mobilenet_v3_large",
    "training_batch_size": "8",
    "learning_rate": "0.002",
}
"""The demo's hyperparameters, with the model of which most benchmarks are, and what suits it."""

TRAIN = (ROOT / "train",)
BY_THE_CPUS_CLOCK = (ROOT / "benchmarks" / "by_the_cpus_clock.py", *TRAIN)
"""`train`, with minutes that are those which it computes."""


def read_training_images(data: Path) -> Records:
    """The training images of a data set: train.json (COCO) and images/."""
    content = read_coco(find_coco_files(data)[0], Folder(data / "images"))
    return make_records(content.examples, ChannelIssues("train"))


def cpu_of_children() -> float:
    """Seconds, user's and system's, of all that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train_once(
    data: Path,
    hyperparameters: dict[str, str],
    channels: Mapping[str, Path] | None = None,
    *,
    one_class: bool = False,
    keep: Path | None = None,
    program: Sequence[Path] = TRAIN,
) -> dict[str, Any]:
    """Run one job and read what it left.

    Args:
        data: holds train.json, val.json (COCO) and images/.
        hyperparameters: the job's.
        channels: a file or a folder each, beside the data.
        one_class: whether the classes are taken for one.
        keep: a folder for the model.
        program: for Python, with its arguments.

    """
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "ml"
        lay_out_job(data, base, hyperparameters)
        _add_channels(base, channels or {})
        if one_class:
            _merge_classes(base)
        start, spent = time.monotonic(), cpu_of_children()
        command = [sys.executable, *map(str, program)]
        environ = os.environ | {"SAGEMAKER_BASE_DIR": str(base)}
        log = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
        minutes, cpu = (time.monotonic() - start) / 60, (cpu_of_children() - spent) / 60
        metrics = json.loads((base / "model" / "model.json").read_text())["metrics"]
        history = json.loads((base / "output" / "data" / "metrics.json").read_text())["epochs"]
        if keep:
            shutil.rmtree(keep, ignore_errors=True)
            shutil.copytree(base / "model", keep)
    peak = re.search(r"peak memory: (\S+) GiB", log)
    missed = re.search(r"first epoch: (.*)", log)
    images = sum(epoch["records"] for epoch in history)
    return {
        **{name: metrics[name] for name in ("AP50", *EIGHT)},
        "Mpx": round(sum(epoch["pixels"] for epoch in history) / 1e6),
        "minutes": round(minutes, 2),
        "cpu_minutes": round(cpu, 2),
        "images_per_second": round(images / sum(epoch["seconds"] for epoch in history), 1),
        "peak_GiB": float(peak[1]) if peak else None,
        "without_a_positive_prior": missed[1] if missed else "",
    }


def _add_channels(base: Path, channels: Mapping[str, Path]) -> None:
    config = base / "input" / "config" / "inputdataconfig.json"
    content = json.loads(config.read_text())
    for name, path in channels.items():
        channel = base / "input" / "data" / name
        if path.is_dir():
            shutil.copytree(path, channel)
        else:
            channel.mkdir()
            shutil.copyfile(path, channel / path.name)
        content[name] = content["train"]
    config.write_text(json.dumps(content))


def _merge_classes(base: Path) -> None:
    for path in (base / "input" / "data").glob("*/annotations.json"):
        content = json.loads(path.read_text())
        annotations = [annotation | {"category_id": 1} for annotation in content["annotations"]]
        path.write_text(
            json.dumps(content | {"categories": [{"id": 1, "name": "object"}], "annotations": annotations})
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the benchmarks that train several jobs."""
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--mpx", type=float, default=6000, help="budget in millions of pixels of views")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=Path, help="what all jobs start from")
    parser.add_argument("--one-class", action="store_true", help="take the classes for one")
    parser.add_argument("--runs", type=Path, help="keeps each job's figures; what it has is not run again")


def threads() -> int:
    """Those that each job computes with."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a benchmark's figures are good for."""
    return {
        "data": arguments.data.name,
        "threads": threads(),
        "weights": arguments.weights.name if arguments.weights else None,
        "one_class": arguments.one_class,
        "mpx": arguments.mpx,
    }


def train_seeds(
    arguments: argparse.Namespace,
    hyperparameters: dict[str, str],
    train: Callable[..., dict[str, Any]] = train_once,
) -> dict[int, dict[str, Any]]:
    """A job's figures for each seed, as ``train`` gives them."""
    data, weights, one_class, store = (
        getattr(arguments, name) for name in ("data", "weights", "one_class", "runs")
    )
    channels = {"pretrained": weights} if weights else {}
    runs = {}
    for seed in arguments.seeds:
        raw = hyperparameters | {"seed": str(seed)}
        job = {"data": data.name, "weights": weights and weights.name, "one_class": one_class}
        job["hyperparameters"] = raw
        runs[seed] = kept(store, job, partial(train, data, raw, channels, one_class=one_class))
    return runs


def kept(store: Path | None, job: dict[str, Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A job's figures as ``store`` has them, or those of running it, which it then keeps."""
    lines = store.read_text().splitlines() if store and store.is_file() else []
    for line in map(json.loads, lines):
        if line["job"] == job:
            return dict(line["figures"])
    figures = run()
    if store:
        with store.open("a") as file:
            file.write(json.dumps({"job": job, "figures": figures}) + "\n")
    return figures


def on_one_core(core: int | None) -> None:
    """Compute on one core with one thread from now on, here and in all jobs; None for the first core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0)) if core is None else core})
    os.environ["OMP_NUM_THREADS"] = "1"


def require_time(end: float) -> None:
    """To be asked before a run begins.

    Raises:
        TimeoutError: ``end``, of ``time.monotonic()``, is over.

    """
    if time.monotonic() > end:
        raise TimeoutError


@contextlib.contextmanager
def as_far_as_time_reaches(runs: Path, table: Callable[[Path], str]) -> Iterator[None]:
    """Runs within :func:`require_time`'s limit; afterwards the table of the file that they are kept in."""
    try:
        yield
    except TimeoutError:
        print("the time is over: the same command goes on where this one stopped", file=sys.stderr)
    if runs.is_file():
        print(table(runs))


def summary(runs: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and the least and the largest AP and AP50."""
    values = {
        name: [run[name] for run in runs.values()]
        for name in FIGURES + COSTS
        if all(run.get(name) is not None for run in runs.values())
    }
    means: dict[str, Any] = {name: round(statistics.mean(of), 4) for name, of in values.items()}
    return means | {
        f"{name}_range": [round(end(values[name]), 4) for end in (min, max)] for name in ("AP", "AP50")
    }
