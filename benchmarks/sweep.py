"""Hyperparameters in all combinations, in equal minutes of one core: writes a line for each run.

python benchmarks/sweep.py DATA … name=value name=value,value … --runs runs.jsonl [--minutes 3] [--seeds 0]
    [--core 0] [--stop-after MINUTES]
python benchmarks/sweep.py --table runs.jsonl

Each DATA holds train.json, val.json (COCO) and images/. The jobs are the demo's, with what is given; where a
name has several values, with commas between them, each combination is a job. Jobs plan their epochs by
minutes of the CPU, so that other work costs none its epochs. A run whose line is there is not run again, so
that the same command goes on where one stopped.
"""

from __future__ import annotations

import argparse
import itertools
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

SHOWN = ("AP", "AP_small", "Mpx", "cpu_minutes")


def combinations(pairs: list[str]) -> list[dict[str, str]]:
    """``["a=1,2", "b=3"]`` -> ``[{"a": "1", "b": "3"}, {"a": "2", "b": "3"}]``."""
    named = [pair.split("=", 1) for pair in pairs]
    values = itertools.product(*(value.split(",") for _, value in named))
    return [dict(zip((name for name, _ in named), each, strict=True)) for each in values]


def run_one(data: Path, chosen: dict[str, str], end: float) -> dict[str, Any]:
    """A run's figures.

    Raises:
        TimeoutError: no run may begin any more.

    """
    require_time(end)
    figures = train_once(data, demo_hyperparameters(chosen), program=BY_THE_CPUS_CLOCK)
    shown = {name: figures[name] for name in SHOWN}
    print(data.name, json.dumps(chosen), json.dumps(shown), file=sys.stderr, flush=True)
    return figures


def table(runs: Path) -> str:
    """The means over the seeds of all runs in a file, in Markdown: a row for each combination."""
    lines = [json.loads(line) for line in runs.read_text().splitlines()]
    names = list(dict.fromkeys(name for line in lines for name in line["job"]["hyperparameters"]))
    sets = list(dict.fromkeys(line["job"]["data"] for line in lines))
    names.remove("seed")
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for line in lines:
        chosen = line["job"]["hyperparameters"]
        values = groups.setdefault(tuple(chosen.get(name, "") for name in names), {})
        values.setdefault(line["job"]["data"], []).append(line["figures"]["AP"] or 0.0)
    rows = [[*names, *(f"{data}: AP" for data in sets)], ["---"] * (len(names) + len(sets))]
    for key, by_set in groups.items():
        cells = []
        for data in sets:
            aps = by_set.get(data, [])
            spread = f" ({min(aps):.3f} to {max(aps):.3f})" if len(aps) > 1 else ""
            cells.append(f"{statistics.mean(aps):.3f}{spread}" if aps else "")
        rows.append([*key, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Run what is asked for and is not there yet, as far as the time reaches, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="DATA … name=value,value …")
    parser.add_argument("--runs", type=Path, help="the file of the runs' lines")
    parser.add_argument("--table", type=Path, metavar="RUNS", help="only print the table of these runs")
    parser.add_argument("--minutes", type=float, default=3, help="of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--core", type=int, help="where all runs take place; the first one by default")
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="after so many minutes no further run begins"
    )
    arguments = parser.parse_intermixed_args()
    if arguments.table:
        print(table(arguments.table))
        return
    sets = [Path(word) for word in arguments.words if "=" not in word]
    if not (sets and arguments.runs):
        parser.error("name DATA and --runs, or --table")
    on_one_core(arguments.core)
    end = time.monotonic() + 60 * arguments.stop_after
    with as_far_as_time_reaches(arguments.runs, table):
        for seed, data in itertools.product(arguments.seeds, sets):
            for chosen in combinations([word for word in arguments.words if "=" in word]):
                raw = chosen | {"minutes": f"{arguments.minutes:g}", "seed": str(seed)}
                kept(
                    arguments.runs,
                    {"data": data.name, "hyperparameters": raw},
                    partial(run_one, data, raw, end),
                )


if __name__ == "__main__":
    main()
