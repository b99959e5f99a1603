"""What breaks distillation: each trap alone, on one student, beside ours and a plain student; writes lines.

python benchmarks/distillation_traps.py DATA [name=value …] --teacher FOLDER --runs traps.jsonl
    [--traps ours plain a b …] [--epochs 20] [--seeds 0] [--weights FILE]

DATA holds train.json, val.json (COCO) and images/; FOLDER a job's model (model.json and its weights). The
line of each run is written as it ends, and a run whose line is there is not run again. Students start from
FILE, published weights of their model, or from scratch.

ours    as the product has it
plain   without a teacher
a       the teacher sees other pixels: mirrored ones
b       the teacher is in training mode: its statistics are of each batch, and change
c       softmax and divergence are computed in bfloat16
d       the teacher's maps are those of the first batch of the same shape: a cache beside augmentation
e       maps of other strides are compared: the teacher's next coarser map, enlarged
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "container")]

from lay_out import lay_out_job  # noqa: E402
from runs import kept  # noqa: E402
from tilewise.data.channel import ChannelFolder, DataSet, read_data_set  # noqa: E402
from tilewise.hyperparameters import parse_hyperparameters  # noqa: E402
from tilewise.inference.artifact import Artifact  # noqa: E402
from tilewise.models.detector import VisionModel  # noqa: E402
from tilewise.tasks.registry import make_task  # noqa: E402
from tilewise.training.job.context import JobContext  # noqa: E402
from tilewise.training.job.metric_lines import MetricLines  # noqa: E402
from tilewise.training.step import distillation  # noqa: E402
from tilewise.training.train import Start, train  # noqa: E402

TRAPS = ("ours", "plain", "a", "b", "c", "d", "e")
STUDENT = {
    "model_name": "yolox_nano",
    "image_size": "320",
    "training_batch_size": "8",
    "validation_batch_size": "8",
    "use_pretrained_model": "0",
    "validation_metric_type": "coco",
    "early_stopping": "0",
    "num_workers": "0",
}
_teacher_maps = distillation._teacher_maps
_divergence = distillation.channel_divergence


def mirrored(model: VisionModel, images: Sequence[Tensor], maps: distillation.Maps) -> list[Tensor]:
    """Trap a."""
    return _teacher_maps(model, [image.flip(-1) for image in images], maps)


def in_training(model: VisionModel, images: Sequence[Tensor], maps: distillation.Maps) -> list[Tensor]:
    """Trap b."""
    return _teacher_maps(model.train(), images, maps)


def in_bfloat16(student_BCHW: Tensor, teacher_BCHW: Tensor, temperature: float) -> Tensor:
    """Trap c."""
    maps = (student_BCHW, teacher_BCHW)
    logs, taught = ((each.bfloat16().flatten(2) / temperature).log_softmax(dim=2) for each in maps)
    return (temperature**2 * (taught.exp() * (taught - logs)).sum(dim=2).mean()).float()


class Cached:
    """Trap d."""

    def __init__(self) -> None:
        self.maps: dict[tuple[int, ...], list[Tensor]] = {}

    def __call__(self, model: VisionModel, images: Sequence[Tensor], maps: distillation.Maps) -> list[Tensor]:
        """A model's maps of the first batch of as many views."""
        key = (id(model), len(images), *images[0].shape)  # strides are found with the student, too
        if key not in self.maps:
            self.maps[key] = _teacher_maps(model, images, maps)
        return self.maps[key]


def next_coarser(model: VisionModel, images: Sequence[Tensor], maps: distillation.Maps) -> list[Tensor]:
    """Trap e; the channels are repeated or cut to those that there were."""
    found = _teacher_maps(model, images, maps)
    shifted = []
    for own, other in zip(found, [*found[1:], found[-1]], strict=True):
        enlarged = F.interpolate(other, size=own.shape[2:], mode="nearest")
        times = -(-own.shape[1] // enlarged.shape[1])
        shifted.append(enlarged.repeat(1, times, 1, 1)[:, : own.shape[1]])
    return shifted


def run(
    trap: str, data: Path, raw: dict[str, str], teacher: Path, weights: Path | None = None
) -> dict[str, Any]:
    """The figures of one training."""
    hp = parse_hyperparameters(raw)
    changes: dict[str, dict[str, Any]] = {
        "a": {"_teacher_maps": mirrored},
        "b": {"_teacher_maps": in_training},
        "c": {"channel_divergence": in_bfloat16},
        "d": {"_teacher_maps": Cached()},
        "e": {"_teacher_maps": next_coarser},
    }
    changed = changes.get(trap, {})
    with tempfile.TemporaryDirectory() as folder:
        job = JobContext(hp, make_task(hp), MetricLines("algo-1", quiet=True), Path(folder) / "model")
        job.model_dir.mkdir()
        pretrained = Path(folder) / "pretrained" if weights else None
        if weights and pretrained:
            pretrained.mkdir()
            shutil.copyfile(weights, pretrained / weights.name)
        teachers = [] if trap == "plain" else [Artifact.load(teacher)]
        with patch.multiple(distillation, **changed) if changed else patch.dict({}):
            result = train(read(data, Path(folder)), job, Start(pretrained=pretrained, teachers=teachers))
    return {
        "AP": result.best["AP"],
        "AP_small": result.best["AP_small"],
        "losses": {name: round(value, 4) for name, value in result.epochs[-1]["losses"].items()},
    }


def read(data: Path, folder: Path) -> DataSet:
    """The data set as a job's channels."""
    lay_out_job(data, folder / "ml", {})
    channels = folder / "ml" / "input" / "data"
    folders = {name: ChannelFolder(channels / name) for name in ("train", "validation")}
    return read_data_set(folders, None, validates=True, seed=0)


def main() -> None:
    """Run the traps, and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--traps", nargs="+", choices=TRAPS, default=list(TRAPS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        for trap in arguments.traps:
            raw = STUDENT | dict(pair.split("=", 1) for pair in arguments.hyperparameters)
            raw |= {"number_of_epochs": str(arguments.epochs), "evaluation_frequency": str(arguments.epochs)}
            raw |= {"seed": str(seed), "use_pretrained_model": str(int(arguments.weights is not None))}
            job = {"trap": trap, "data": arguments.data.name, "hyperparameters": raw}
            train_one = partial(run, trap, arguments.data, raw, arguments.teacher, arguments.weights)
            figures = kept(arguments.runs, job, train_one)
            print(trap, seed, json.dumps(figures))


if __name__ == "__main__":
    main()
