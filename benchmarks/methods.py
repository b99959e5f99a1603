"""The methods for small objects, alone and together, in runs of bounded cost: writes a line for each run.

python benchmarks/methods.py DATA [name=value …] --runs runs.jsonl [--methods plain copy_paste …]
    [--ways whole fixed] [--seeds 0] [--mpx 250] [--reduce 160x120] [--minutes 60]

DATA holds train.json, val.json (COCO) and images/. Each run is one training job, a process of its own, with
as many epochs as its budget of pixels holds; its line is written as it ends, and a run whose line is there is
not run again. After so many core-minutes in all no further run begins. In the end it prints a table of what
the file has: the eight figures, their means and spread over the seeds, and minutes.

The methods whose names begin with `distil` need a teacher, which is trained first, the same way and with as
many pixels, and kept beside the runs' file: on the original images, or on pasted ones where the name has
`pasted`. Teacher and student of `distil` see the original images; of `distil_copy_paste` the student
alone sees pasted ones, of `distil_pasted_copy_paste` both. Each job but a teacher's starts from `--weights`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "container")]

from PIL import Image  # noqa: E402
from pixels import pixels_of_an_epoch  # noqa: E402
from runs import (  # noqa: E402
    EIGHT,
    SSDLITE,
    as_far_as_time_reaches,
    kept,
    read_training_images,
    require_time,
    train_once,
)
from tilewise.data.channel import Split  # noqa: E402
from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.hyperparameters import parse_hyperparameters  # noqa: E402
from tilewise.registry import family_of  # noqa: E402
from tilewise.training.dataloading.copies import copies_per_image  # noqa: E402
from tilewise.training.job.copy_paste import make_copy_paste  # noqa: E402

WAYS = {"whole": {"training_views": "whole"}, "fixed": {"training_views": "fixed"}}

METHODS: dict[str, dict[str, str]] = {
    "plain": {},
    "copy_paste": {"copy_paste": "1"},
    "copy_paste_3x3": {"copy_paste": "1", "copy_paste_repeats": "3", "copy_paste_times": "3"},
    "copy_paste_any": {"copy_paste": "1", "copy_paste_source": "any"},
    "factor_0.95": {"small_object_loss_factor": "0.95"},
    "factor_1.5": {"small_object_loss_factor": "1.5"},
    "factor_2": {"small_object_loss_factor": "2"},
    "exponent_0.25": {"size_loss_exponent": "0.25"},
    "exponent_-0.25": {"size_loss_exponent": "-0.25"},
    "stride_4": {"stride_4_level": "1"},
    "nwd": {"assignment": "nwd"},
    "rfla": {"assignment": "rfla"},
    "multi_scale": {"multi_scale": "1"},
    "multi_scale_list": {"multi_scale": "0.5,0.75,1,1.25,1.5"},
    "multi_scale_auto": {"multi_scale": "auto"},
    "any_way_up": {"orientation": "any"},
    "rotation": {"rotation": "15", "shear": "5"},
    "degradation": {"degradation": "0.2"},
    "mosaic": {"mosaic": "0.5"},
    "mixup": {"mixup": "0.3"},
    "no_windows": {"random_windows": "0"},
    "no_colours": {"colour_changes": "0"},
    "distil": {},
    "distil_1": {"distillation_weight": "1"},
    "distil_25": {"distillation_weight": "25"},
    "distil_100": {"distillation_weight": "100"},
    "distil_logits": {"distillation_maps": "logits"},
    "distil_logits_25": {"distillation_maps": "logits", "distillation_weight": "25"},
    "distil_copy_paste": {"copy_paste": "1"},
    "distil_pasted_copy_paste": {"copy_paste": "1"},
}
"""Hyperparameters of each method; join two with a plus: `copy_paste+nwd`."""

NOT_FOR = {
    "rfla": ("ssd", "yolox", "retinanet"),
    "nwd": ("yolox", "gfl", "fcos"),
    **dict.fromkeys(("stride_4", "mosaic", "mixup"), ("fasterrcnn",)),
}
"""The models, by the beginnings of their names, that have no such method."""
TEACHERS = {"yolox_nano": "yolox_s", "gfl_resnet18_fpn": "gfl_resnet50_fpn"}
"""The teacher of a model, unless `--teacher` names another."""


def hyperparameters_of(method: str) -> dict[str, str]:
    """Those of one method, or of several joined with a plus."""
    return {name: value for each in method.split("+") for name, value in METHODS[each].items()}


def of_its_scaling(raw: dict[str, str]) -> dict[str, str]:
    """With `min_size` and `max_size` in place of `image_size`, for a model that takes these."""
    side = raw["image_size"]
    if family_of(raw["model_name"]).scaling == "square":
        return raw
    rest = {name: value for name, value in raw.items() if name != "image_size"}
    return {"min_size": side, "max_size": side} | rest


def reduced(data: Path, size: tuple[int, int], folder: Path) -> Path:
    """A copy of a data set whose images fit into ``size``, with their boxes."""
    out = folder / f"{data.name}_{size[0]}x{size[1]}"
    if out.is_dir():
        return out
    making = out.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    (making / "images").mkdir(parents=True)
    for name in ("train.json", "val.json"):
        content = json.loads((data / name).read_text())
        factors: dict[int, float] = {}
        for image in content["images"]:
            with Image.open(data / "images" / image["file_name"]) as picture:
                factor = min(1.0, size[0] / picture.width, size[1] / picture.height)
                sides = max(1, round(factor * picture.width)), max(1, round(factor * picture.height))
                target = making / "images" / image["file_name"]
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.convert("RGB").resize(sides, Image.Resampling.BOX).save(target, quality=95)
            factors[image["id"]] = factor
            image |= {"width": sides[0], "height": sides[1]}
        for annotation in content["annotations"]:
            factor = factors[annotation["image_id"]]
            annotation["bbox"] = [factor * number for number in annotation["bbox"]]
            annotation["area"] = factor**2 * annotation.get("area", 0)
            annotation.pop("segmentation", None)
        (making / name).write_text(json.dumps(content))
    making.rename(out)
    return out


class Bench:
    """All runs on one data set.

    Args:
        arguments: of the command line.

    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.folder = arguments.runs.with_suffix("")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = arguments.data
        if arguments.reduce:
            width, _, height = arguments.reduce.partition("x")
            self.data = reduced(self.data, (int(width), int(height)), self.folder)
        self.records = read_training_images(self.data)
        self.chosen = SSDLITE | dict(pair.split("=", 1) for pair in arguments.hyperparameters)
        self.end = time.monotonic() + 60 * arguments.minutes

    def run(self, method: str, way: str, seed: int, model: str | None = None) -> dict[str, Any] | None:
        """A run's figures, from the file or anew; None where there is no time left for it."""
        raw = self.chosen | WAYS[way] | hyperparameters_of(method) | {"seed": str(seed)}
        if model:
            raw["model_name"] = model
        raw = of_its_scaling(raw)
        pixels = pixels_of_an_epoch(self.records, raw) * (1 + self._copies(raw))
        epochs = max(1, round(self.arguments.mpx * 1e6 / pixels))
        raw |= {"number_of_epochs": str(epochs), "evaluation_frequency": str(epochs), "early_stopping": "0"}
        raw.setdefault("warmup_steps", "50")
        channels: dict[str, Path] = {}
        weights = None if model else self.arguments.weights  # a teacher is another model
        if weights:
            channels["pretrained"] = weights
        if method.startswith("distil"):
            teacher = self._teacher(method, way, seed)
            if teacher is None:
                return None
            channels["teacher"] = teacher
        job = {"data": self.data.name, "method": method, "way": way, "model": model, "hyperparameters": raw}
        job["weights"] = weights and weights.name
        keep = self._kept_model(model, method, way, seed) if model else None
        return kept(self.arguments.runs, job, partial(self._train, raw, channels, keep, job))

    def _copies(self, raw: dict[str, str]) -> float:
        """Copies with pasted objects of an image in an epoch, on average."""
        source = Split(self.records, ChannelIssues("train", images=len(self.records)))
        copy_paste = make_copy_paste(parse_hyperparameters(raw), source, classes=1)
        return copies_per_image(copy_paste, self.records)

    def _train(
        self, raw: dict[str, str], channels: dict[str, Path], keep: Path | None, job: dict[str, Any]
    ) -> dict[str, Any]:
        require_time(self.end)
        figures = train_once(self.data, raw, channels, keep=keep)
        shown = {name: value for name, value in figures.items() if name in (*EIGHT, "minutes")}
        print(job["method"], job["way"], raw["seed"], json.dumps(shown), file=sys.stderr)
        return figures

    def _kept_model(self, model: str, method: str, way: str, seed: int) -> Path:
        folder: Path = self.folder / f"teacher_{model}_{method}_{way}_{seed}"
        return folder

    def _teacher(self, method: str, way: str, seed: int) -> Path | None:
        """The folder of a method's teacher, trained where it is not there yet."""
        model = self.arguments.teacher or TEACHERS.get(self.chosen["model_name"], "yolox_s")
        of = "copy_paste" if "pasted" in method else "plain"
        folder = self._kept_model(model, of, way, seed)
        if not folder.is_dir():
            self.run(of, way, seed, model)
        return folder if folder.is_dir() else None


def table(runs: Path) -> str:
    """The means over the seeds of all runs in a file, and the least and largest AP_small, in Markdown."""
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for line in map(json.loads, runs.read_text().splitlines()):
        job = line["job"]
        name = job["model"] or job["hyperparameters"]["model_name"]
        key = (job["data"], job["way"], name, job["method"])
        groups.setdefault(key, []).append(line["figures"])
    head = ["data", "views", "model", "method", "seeds", *EIGHT, "AP_small, least to most", "minutes"]
    rows = [head, ["---"] * len(head)]
    for key, figures in groups.items():
        means = [
            f"{statistics.mean(each[name] for each in figures):.3f}"
            if all(each[name] is not None for each in figures)
            else ""
            for name in EIGHT
        ]
        small = [each["AP_small"] for each in figures if each["AP_small"] is not None]
        spread = f"{min(small):.3f} to {max(small):.3f}" if small else ""
        minutes = f"{statistics.mean(each['minutes'] for each in figures):.1f}"
        rows.append([*key, str(len(figures)), *means, spread, minutes])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Run what is asked for, as far as the time reaches, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--runs", type=Path, required=True, help="the file of the runs' lines")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=", ".join(METHODS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--mpx", type=float, default=250, help="millions of pixels of views of a run")
    parser.add_argument("--minutes", type=float, default=60, help="after so many no further run begins")
    parser.add_argument("--reduce", help="WIDTHxHEIGHT that images are reduced to, such as 160x120")
    parser.add_argument("--weights", type=Path, help="what all jobs but the teachers' start from")
    parser.add_argument("--teacher", help="model_name of the teachers")
    arguments = parser.parse_intermixed_args()
    for method in arguments.methods:
        unknown = [each for each in method.split("+") if each not in METHODS]
        if unknown:
            parser.error(f"there is no method {unknown[0]}; the methods are {', '.join(METHODS)}")
    bench = Bench(arguments)
    model = bench.chosen["model_name"]
    with as_far_as_time_reaches(arguments.runs, table):
        for seed in arguments.seeds:
            for way in arguments.ways:
                for method in arguments.methods:
                    if not any(model.startswith(NOT_FOR.get(each, ())) for each in method.split("+")):
                        bench.run(method, way, seed)


if __name__ == "__main__":
    main()
