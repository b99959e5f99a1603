"""`train`'s AP beside that of torchvision's reference training after equal epochs: prints JSON.

python benchmarks/reference_accuracy.py DATA [name=value …] [--seeds 0 1 2] [--sides SIDE] [--runs FILE]

DATA holds train.json, val.json (COCO) and images/. The sides are those of `reference_loop.py`, each with its
own model, defaults, augmentation and loading; epochs, batch size, optimizer (AdamW), learning rate with its
schedule, random initial weights, least score and the computation of AP are the same; ``name=value`` are
hyperparameters of both. Ours is a whole training job: its minutes hold its start and its validation too, the
reference's neither.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

from lay_out import find_coco_files  # noqa: E402
from reference_loop import CONTENDERS, REFERENCE_WORKERS, Reference  # noqa: E402
from runs import FIGURES, SSDLITE, kept, summary, train_once  # noqa: E402
from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.data.checks import make_records  # noqa: E402
from tilewise.data.decoding.decode import decode_image  # noqa: E402
from tilewise.data.files.folder import Folder  # noqa: E402
from tilewise.data.formats.coco import read_coco  # noqa: E402
from tilewise.data.records import Records  # noqa: E402
from tilewise.evaluation.coco import coco_metrics  # noqa: E402
from tilewise.hyperparameters import parse_hyperparameters  # noqa: E402
from tilewise.instances import Instances  # noqa: E402
from tilewise.registry import family_of  # noqa: E402
from tilewise.training.step.lr_scheduler import LRScheduler  # noqa: E402
from tilewise.training.step.optimizer import make_optimizer  # noqa: E402
from training_speed import device_name, prepare  # noqa: E402

EQUAL = {
    "training_batch_size": "4",
    "number_of_epochs": "20",
    "warmup_cosine_lr_warmup_epochs": "1",
    "use_pretrained_model": "0",
}
"""Hyperparameters of both sides, unless others are named."""


def train_reference(data: Path, raw: dict[str, str], seed: int) -> dict[str, Any]:
    """Torchvision's figures, as :func:`runs.train_once` gives ours."""
    hp = parse_hyperparameters(raw)
    validation = find_coco_files(data)[1]
    if validation is None:
        raise FileNotFoundError(f"{data} holds no val.json")
    content = read_coco(validation, Folder(data / "images"))
    model, classes = CONTENDERS[hp.model_name][0], content.classes or ()
    sides = {"min_size": hp.min_size, "max_size": hp.max_size} if hp.min_size else {}
    reference = Reference(model, data, len(classes), hp.training_batch_size, REFERENCE_WORKERS, seed, sides)
    reference.optimizer = make_optimizer(reference.model, hp)
    batches = len(reference.loader)
    scheduler = LRScheduler(reference.optimizer, hp, batches)
    images, start = 0, time.monotonic()
    for _ in range(hp.number_of_epochs):
        for _ in range(batches):
            images += reference.loop(1)[0]
            scheduler.step()
        scheduler.end_epoch()
    seconds = time.monotonic() - start
    records = make_records(content.examples, ChannelIssues("validation"))
    metrics = coco_metrics(records, detect(reference, records, hp.box_score_threshold), classes)
    return {
        **{name: metrics[name] for name in FIGURES},
        "minutes": round(seconds / 60, 2),
        "images_per_second": round(images / seconds, 1),
    }


def detect(reference: Reference, records: Records, score: float) -> list[Instances]:
    """What torchvision's model finds in each image, with at least this score."""
    model: Any = reference.model.eval()
    found = []
    with torch.inference_mode():
        for record in records:
            (answer,) = model([decode_image(record.read()).to(reference.device) / 255])
            kept = answer["scores"] >= score
            boxes, scores, labels = (
                answer[name][kept].cpu().numpy() for name in ("boxes", "scores", "labels")
            )
            found.append(Instances(boxes, scores, labels - 1))  # 0 is its background
    return found


def train_ours(data: Path, raw: dict[str, str], seed: int) -> dict[str, Any]:
    """Our figures."""
    return train_once(data, raw | {"seed": str(seed)})


SIDES = {"tilewise": train_ours, "torchvision": train_reference}


def main() -> None:
    """Train both sides with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--runs", type=Path, help="keeps each side's figures; what it has is not run again")
    arguments = parser.parse_intermixed_args()
    prepare(None)
    chosen = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    model = chosen.get("model_name", SSDLITE["model_name"])
    if "torchvision" in arguments.sides and model not in CONTENDERS:
        parser.error(f"torchvision has no such model: {model}; there are {', '.join(CONTENDERS)}")
    settings = CONTENDERS[model][1] if model in CONTENDERS else {}
    raw = SSDLITE | EQUAL | settings | chosen
    raw["evaluation_frequency"] = raw["number_of_epochs"]
    if family_of(model).scaling == "sides":
        del raw["image_size"]
    sides: dict[str, Any] = {side: {} for side in arguments.sides}
    for seed in arguments.seeds:
        for side, runs in sides.items():
            job = {"data": arguments.data.name, "side": side, "seed": seed, "hyperparameters": raw}
            runs[seed] = kept(arguments.runs, job, partial(SIDES[side], arguments.data, raw, seed))
            print(seed, side, runs[seed], file=sys.stderr)
    result = {
        "data": arguments.data.name,
        "device": device_name(),
        "hyperparameters": raw,
        **{side: {"mean": summary(runs), "seeds": runs} for side, runs in sides.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
