"""What the order of `tilewise rank` is worth: AP over the labels, beside images drawn at random.

python benchmarks/active_learning.py DATA [name=value …] --runs runs.jsonl [--labels 5 10 20 40]
    [--ways entropy disagreement both] [--seeds 0 1 2] [--mpx 200] [--weights FILE] [--minutes 60]

DATA holds train.json, val.json (COCO) and images/. A detector learns from the first images, drawn at random.
Then a way chooses more of those that are left: `random`, or the first ones in the order of `tilewise rank`
by the model so far. A new detector learns from all that is labelled, with the same pixels of views in every
run, and so on. The labels are DATA's own, which stand for the people that would draw them.

Each run writes its line as it ends, and a run whose line is there is not run again; after so many minutes
none begins. In the end a table is printed: AP and AR on the validation images, by images and by boxes that
had to be labelled.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "container")]

from methods import of_its_scaling  # noqa: E402
from pixels import pixels_of_an_epoch  # noqa: E402
from runs import (  # noqa: E402
    SSDLITE,
    as_far_as_time_reaches,
    kept,
    read_training_images,
    require_time,
    train_once,
)
from tilewise.commands.rank import MEASURES  # noqa: E402
from tilewise.tasks.detection.active_learning import most_informative_first  # noqa: E402

RANKED = {"entropy": MEASURES[:1], "disagreement": MEASURES[1:], "both": MEASURES}
SHOWN = ("AP", "AR")


class Simulation:
    """All runs on one data set.

    Args:
        arguments: of the command line.

    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.content = json.loads((arguments.data / "train.json").read_text())
        self.names = sorted(image["file_name"] for image in self.content["images"])
        self.chosen = SSDLITE | dict(pair.split("=", 1) for pair in arguments.hyperparameters)
        self.end = time.monotonic() + 60 * arguments.minutes

    def curve(self, way: str, seed: int) -> None:
        """The runs of one way of choosing, one after the other."""
        shuffled = random.Random(seed).sample(self.names, len(self.names))
        first, *more = [each for each in self.arguments.labels if each <= len(self.names)]
        labelled = shuffled[:first]
        order = self.run("first", labelled, seed)["order"]
        for labels in more:
            rest = shuffled[len(labelled) :] if way == "random" else order[way]
            labelled = labelled + rest[: labels - len(labelled)]
            order = self.run(way, labelled, seed)["order"]

    def run(self, way: str, labelled: list[str], seed: int) -> dict[str, Any]:
        """The figures of a detector that learns from these images, from the file or anew."""
        arguments = self.arguments
        job = {
            "data": arguments.data.name,
            "way": way,
            "labels": len(labelled),
            "seed": seed,
            "mpx": arguments.mpx,
            "weights": arguments.weights and arguments.weights.name,
            "hyperparameters": self.chosen,
        }
        return kept(arguments.runs, job, partial(self._train, labelled, seed, job))

    def _train(self, labelled: list[str], seed: int, job: dict[str, Any]) -> dict[str, Any]:
        require_time(self.end)
        channels = {"pretrained": self.arguments.weights} if self.arguments.weights else {}
        with tempfile.TemporaryDirectory() as folder:
            data, model = Path(folder) / "data", Path(folder) / "model"
            boxes = self._lay_out(labelled, data)
            raw = of_its_scaling(self.chosen | {"seed": str(seed)})
            epochs = round(self.arguments.mpx * 1e6 / pixels_of_an_epoch(read_training_images(data), raw))
            raw |= {"number_of_epochs": str(max(1, epochs)), "evaluation_frequency": str(max(1, epochs))}
            raw = {"warmup_steps": "50", "early_stopping": "0"} | raw
            figures = train_once(data, raw, channels, keep=model)
            order = self._rank(model, labelled, Path(folder) / "order.csv")
        figures |= {"boxes": boxes, "order": order}
        shown = {name: figures[name] for name in (*SHOWN, "boxes", "minutes")}
        print(job["way"], job["labels"], job["seed"], json.dumps(shown), file=sys.stderr)
        return figures

    def _lay_out(self, labelled: list[str], data: Path) -> int:
        """The data set with these training images alone; returns their boxes."""
        data.mkdir()
        (data / "images").symlink_to((self.arguments.data / "images").resolve())
        (data / "val.json").symlink_to((self.arguments.data / "val.json").resolve())
        images = [image for image in self.content["images"] if image["file_name"] in set(labelled)]
        ids = {image["id"] for image in images}
        boxes = [each for each in self.content["annotations"] if each["image_id"] in ids]
        (data / "train.json").write_text(json.dumps(self.content | {"images": images, "annotations": boxes}))
        return len(boxes)

    def _rank(self, model: Path, labelled: list[str], out: Path) -> dict[str, list[str]]:
        """The images that are left, by each measure, the first ones first."""
        left = [name for name in self.names if name not in set(labelled)]
        if not left:
            return {way: [] for way in RANKED}
        files = [str(self.arguments.data / "images" / name) for name in left]
        environ = os.environ | {"PYTHONPATH": str(ROOT / "container")}
        command = [sys.executable, "-m", "tilewise", "rank", *files, "--model", str(model), "--out", str(out)]
        subprocess.run(command, env=environ, check=True, capture_output=True)
        with out.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        order = {}
        for way, measures in RANKED.items():  # the command's own --by, without predicting once more
            places = most_informative_first([[float(row[name]) for row in rows] for name in measures])
            order[way] = [rows[place]["image"] for place in places]
        return order


def table(runs: Path) -> str:
    """Means over the seeds of all runs in a file, and the least and largest AP, in Markdown."""
    groups: dict[tuple[str, float, int, str], list[dict[str, Any]]] = {}
    for line in map(json.loads, runs.read_text().splitlines()):
        job = line["job"]
        groups.setdefault((job["data"], job["mpx"], job["labels"], job["way"]), []).append(line["figures"])
    head = ["data", "Mpx", "images", "chosen by", "boxes", "seeds", *SHOWN, "AP, least to most", "minutes"]
    rows = [head, ["---"] * len(head)]
    for (data, mpx, labels, way), figures in sorted(groups.items()):
        aps = [each["AP"] for each in figures]
        means = [f"{statistics.mean(each[name] for each in figures):.3f}" for name in SHOWN]
        boxes = f"{statistics.mean(each['boxes'] for each in figures):.0f}"
        minutes = f"{statistics.mean(each['minutes'] for each in figures):.1f}"
        spread = f"{min(aps):.3f} to {max(aps):.3f}"
        rows.append([data, f"{mpx:g}", str(labels), way, boxes, str(len(figures)), *means, spread, minutes])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Run what is asked for, as far as the time reaches, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--runs", type=Path, required=True, help="the file of the runs' lines")
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 10, 20, 40], help="images, rising")
    parser.add_argument("--ways", nargs="+", choices=RANKED, default=["both"], help="beside random")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--mpx", type=float, default=200, help="millions of pixels of views of a run")
    parser.add_argument("--minutes", type=float, default=60, help="after so many no further run begins")
    parser.add_argument("--weights", type=Path, help="what all jobs start from")
    arguments = parser.parse_intermixed_args()
    if sorted(set(arguments.labels)) != arguments.labels:
        parser.error("--labels: give rising numbers of images")
    simulation = Simulation(arguments)
    with as_far_as_time_reaches(arguments.runs, table):
        for seed in arguments.seeds:
            for way in ("random", *arguments.ways):
                simulation.curve(way, seed)


if __name__ == "__main__":
    main()
