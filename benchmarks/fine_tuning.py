"""Recipes of fine-tuning beside training from scratch, in a fifth of its minutes: writes a line for each run.

python benchmarks/fine_tuning.py DATA … --weights yolox_nano_coco.pth --runs runs.jsonl [--set name=value …]
    [--recipes plain backbone_0.3 frozen_norms+rate_0.0005 …] [--minutes 15] [--seeds 0] [--core 0]
    [--stop-after MINUTES]
python benchmarks/fine_tuning.py --table runs.jsonl

Each DATA holds train.json, val.json (COCO) and images/. The jobs are the demo's, with the model that the
weights are of (`model_name=yolox_nano` unless set), tiles from the first step, one core and one thread.
`scratch` has the minutes that are given, each recipe a fifth of them, planned by the job itself; all are the
CPU's, so that other work on the machine costs no run its epochs. Recipes are
joined with a plus. A run whose line is there is not run again, so that the same command goes on where one
stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

from demo_job import demo_hyperparameters  # noqa: E402
from runs import (  # noqa: E402
    BY_THE_CPUS_CLOCK,
    as_far_as_time_reaches,
    kept,
    on_one_core,
    require_time,
    train_once,
)

SCRATCH = "scratch"
SHARE = 1 / 5
RECIPES: dict[str, dict[str, str]] = {
    "plain": {},
    "rate_0.002": {"learning_rate": "0.002"},
    "rate_0.0005": {"learning_rate": "0.0005"},
    "rate_0.00025": {"learning_rate": "0.00025"},
    "backbone_0.3": {"backbone_learning_rate_factor": "0.3"},
    "backbone_0.1": {"backbone_learning_rate_factor": "0.1"},
    "frozen_2": {"layers_to_freeze": "2"},
    "frozen_backbone": {"layers_to_freeze": "5"},
    "frozen_norms": {"freeze_layer_pattern": r".*\.bn\."},
    "no_windows": {"random_windows": "0"},
    "no_warm_up": {"warmup_steps": "0"},
}
"""Hyperparameters of each. Normalisation whose parameters are frozen keeps its statistics, too."""
DEFAULT = (
    "plain", "rate_0.0005", "backbone_0.3", "backbone_0.1", "frozen_2", "frozen_backbone", "frozen_norms",
    "frozen_norms+backbone_0.3",
)  # fmt: skip
SHOWN = ("AP", "AP_small", "AP_medium", "cpu_minutes")


def hyperparameters_of(recipe: str) -> dict[str, str]:
    """Those of one recipe, or of several joined with a plus."""
    return {name: value for each in recipe.split("+") for name, value in RECIPES[each].items()}


def run_one(
    data: Path, chosen: dict[str, str], recipe: str, weights: Path, minutes: float, seed: int, end: float
) -> dict[str, Any]:
    """A run's figures.

    Raises:
        TimeoutError: no run may begin any more.

    """
    require_time(end)
    raw = chosen | {"minutes": f"{minutes:g}", "seed": str(seed)}
    channels = {}
    if recipe == SCRATCH:
        raw |= {"use_pretrained_model": "0"}
    else:
        raw |= hyperparameters_of(recipe)
        channels = {"pretrained": weights}
    figures = train_once(data, demo_hyperparameters(raw), channels, program=BY_THE_CPUS_CLOCK)
    shown = {name: figures[name] for name in SHOWN}
    print(data.name, recipe, seed, json.dumps(shown), file=sys.stderr, flush=True)
    return figures


def table(runs: Path) -> str:
    """The means over the seeds of all runs in a file, beside those from scratch, in Markdown."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in map(json.loads, runs.read_text().splitlines()):
        job = line["job"]
        groups.setdefault((job["data"], job["recipe"], f"{job['minutes']:g}"), []).append(line["figures"])
    head = [
        "data",
        "recipe",
        "minutes",
        "seeds",
        "AP",
        "least to most",
        "AP_small",
        "of scratch's AP",
        "took",
    ]
    rows = [head, ["---"] * len(head)]
    for (data, recipe, minutes), figures in sorted(groups.items()):
        aps = [each["AP"] or 0.0 for each in figures]
        small = [each["AP_small"] for each in figures if each["AP_small"] is not None]
        scratch = [
            each["AP"] or 0.0
            for key, of_key in groups.items()
            if key[:2] == (data, SCRATCH)
            for each in of_key
        ]
        share = f"{statistics.mean(aps) / statistics.mean(scratch):.2f}" if any(scratch) else ""
        took = f"{statistics.mean(each['cpu_minutes'] for each in figures):.1f}"
        spread = f"{min(aps):.3f} to {max(aps):.3f}" if len(aps) > 1 else ""
        of_small = f"{statistics.mean(small):.3f}" if small else ""
        row = [f"{statistics.mean(aps):.3f}", spread, of_small, share, took]
        rows.append([data, recipe, minutes, str(len(aps)), *row])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Run what is asked for and is not there yet, as far as the time reaches, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="*")
    parser.add_argument("--runs", type=Path, help="the file of the runs' lines")
    parser.add_argument("--table", type=Path, metavar="RUNS", help="only print the table of these runs")
    parser.add_argument("--weights", type=Path, help="what the recipes begin with")
    parser.add_argument("--set", nargs="*", default=[], metavar="name=value", help="hyperparameters of all")
    parser.add_argument("--recipes", nargs="+", default=list(DEFAULT), help=", ".join(RECIPES))
    parser.add_argument("--minutes", type=float, default=15, help="of a training from scratch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--core", type=int, help="where all runs take place; the first one by default")
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="after so many minutes no further run begins"
    )
    arguments = parser.parse_intermixed_args()
    if arguments.table:
        print(table(arguments.table))
        return
    if not (arguments.data and arguments.runs and arguments.weights):
        parser.error("name DATA, --weights and --runs, or --table")
    recipes = [recipe for recipe in arguments.recipes if recipe != SCRATCH]
    if unknown := [each for recipe in recipes for each in recipe.split("+") if each not in RECIPES]:
        parser.error(f"there is no recipe {unknown[0]}; the recipes are {', '.join(RECIPES)}")
    on_one_core(arguments.core)
    end = time.monotonic() + 60 * arguments.stop_after
    chosen = {"model_name": "yolox_nano"} | dict(pair.split("=", 1) for pair in arguments.set)
    with as_far_as_time_reaches(arguments.runs, table):
        for seed in arguments.seeds:
            for data in arguments.data:
                for recipe in (SCRATCH, *recipes):
                    minutes = arguments.minutes * (1 if recipe == SCRATCH else SHARE)
                    job = {"data": data.name, "recipe": recipe, "minutes": minutes, "seed": seed}
                    job |= {"hyperparameters": chosen, "weights": arguments.weights.name}
                    run = partial(run_one, data, chosen, recipe, arguments.weights, minutes, seed, end)
                    kept(arguments.runs, job, run)


if __name__ == "__main__":
    main()
