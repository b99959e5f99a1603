"""What copy-paste costs the loading of views: seconds a view with it, by those without, as JSON.

python benchmarks/copy_paste_loading.py DATA [name=value …] [--ways whole fixed] [--rounds 5]

DATA holds train.json, val.json (COCO) and images/. One process loads an epoch without and an epoch with
`copy_paste=1` in turns, so that other work on the machine touches both; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "container")]

from methods import METHODS, WAYS  # noqa: E402
from runs import SSDLITE, read_training_images  # noqa: E402
from tilewise.data.channel import DataSet, Split  # noqa: E402
from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.data.records import Records  # noqa: E402
from tilewise.hyperparameters import parse_hyperparameters  # noqa: E402
from tilewise.tasks.registry import make_task  # noqa: E402
from tilewise.training.dataloading.loader import read_batch  # noqa: E402
from tilewise.training.job.copy_paste import make_copy_paste  # noqa: E402
from tilewise.training.job.view_plans import load_views, make_planner  # noqa: E402


class Epochs:
    """The training views of one job, epoch by epoch."""

    def __init__(self, records: Records, raw: dict[str, str]):
        hp = parse_hyperparameters(raw)
        split = Split(records, ChannelIssues("train", images=len(records)))
        classes = tuple(map(str, range(int(records.targets.labels.max()) + 1)))
        spec = make_task(hp).fit_spec(hp, DataSet(classes, split, None), None)
        self.loader = load_views(
            hp,
            spec,
            split,
            planner=make_planner(hp, spec),
            repeats=None,
            copy_paste=make_copy_paste(hp, split, classes=len(classes), rendering=spec.rendering),
            batch_size=hp.training_batch_size,
        )
        self.epoch = 0

    def seconds_a_view(self) -> float:
        """Of the next epoch."""
        self.loader.batch_sampler.epoch = self.epoch  # type: ignore[union-attr]
        self.epoch += 1
        start = time.perf_counter()
        views = sum(len(read_batch(batch)) for batch in self.loader)
        return (time.perf_counter() - start) / views


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    records = read_training_images(arguments.data)
    chosen = SSDLITE | dict(pair.split("=", 1) for pair in arguments.hyperparameters) | {"num_workers": "0"}
    for way in arguments.ways:
        jobs = [Epochs(records, chosen | WAYS[way] | METHODS[method]) for method in ("plain", "copy_paste")]
        rounds = [[job.seconds_a_view() for job in jobs] for _ in range(arguments.rounds + 1)][1:]
        plain, pasted = (statistics.median(times) for times in zip(*rounds, strict=True))
        found = {"ms_a_view": round(1000 * plain, 2), "with_copy_paste": round(1000 * pasted, 2)}
        print(json.dumps({"views": way, **found, "ratio": round(pasted / plain, 2)}))


if __name__ == "__main__":
    main()
