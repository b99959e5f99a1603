"""`train`'s AP beside that of torchvision's reference training after equal epochs: prints JSON.

python benchmarks/reference_accuracy.py DATA [--model MODEL] [--epochs 20] [--batch 4] [--seeds 0 1 2]

DATA holds train.json, val.json (COCO) and images/. The sides are those of `reference_loop.py`, each with its
own model, defaults, augmentation and loading; epochs, batch size, optimizer (AdamW), learning rate with its
schedule, random initial weights, least score and the computation of AP are the same. Ours is a whole training
job: its minutes hold its start and its validation too, the reference's neither.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

from lay_out import find_coco_files  # noqa: E402
from reference_loop import CONTENDERS, REFERENCE_WORKERS, Reference  # noqa: E402
from runs import FIGURES, SSDLITE, summary, train_once  # noqa: E402
from tilewise.data.annotations import Report, make_records  # noqa: E402
from tilewise.data.coco import read_coco  # noqa: E402
from tilewise.data.decode import decode_image  # noqa: E402
from tilewise.data.folder import Folder  # noqa: E402
from tilewise.data.records import Records  # noqa: E402
from tilewise.detections import Detections  # noqa: E402
from tilewise.evaluation.coco import coco_metrics  # noqa: E402
from tilewise.hyperparameters import parse_hyperparameters  # noqa: E402
from tilewise.training.optimizer import make_optimizer  # noqa: E402
from tilewise.training.schedule import Scheduler  # noqa: E402
from training_speed import device_name, prepare  # noqa: E402


def train_reference(data: Path, raw: dict[str, str], seed: int) -> dict[str, Any]:
    """Torchvision's figures, as :func:`runs.train_once` gives ours."""
    hp = parse_hyperparameters(raw)
    validation = find_coco_files(data)[1]
    if validation is None:
        raise FileNotFoundError(f"{data} holds no val.json")
    content = read_coco(validation, Folder(data / "images"))
    model, classes = CONTENDERS[hp.model_name][0], content.classes or ()
    reference = Reference(model, data, len(classes), hp.training_batch_size, REFERENCE_WORKERS, seed)
    reference.optimizer = make_optimizer(reference.model, hp)
    batches = len(reference.loader)
    scheduler = Scheduler(reference.optimizer, hp, batches)
    images, start = 0, time.monotonic()
    for _ in range(hp.number_of_epochs):
        for _ in range(batches):
            images += reference.loop(1)[0]
            scheduler.step()
        scheduler.end_epoch()
    seconds = time.monotonic() - start
    records = make_records(content.examples, Report("validation"))
    metrics = coco_metrics(records, detect(reference, records, hp.box_score_threshold), classes)
    return {
        **{name: metrics[name] for name in FIGURES},
        "minutes": round(seconds / 60, 2),
        "images_per_second": round(images / seconds, 1),
    }


def detect(reference: Reference, records: Records, score: float) -> list[Detections]:
    """What torchvision's model finds in each image, with at least this score."""
    model: Any = reference.model.eval()
    found = []
    with torch.inference_mode():
        for record in records:
            (answer,) = model([decode_image(record.read()).to(reference.device) / 255])
            kept = answer["scores"] >= score
            boxes, scores, labels = (answer[name][kept].cpu() for name in ("boxes", "scores", "labels"))
            found.append(Detections(boxes, scores, labels - 1))  # 0 is its background
    return found


def main() -> None:
    """Train both sides with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", choices=CONTENDERS, default="ssdlite_mobilenet_v3_large")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    prepare(None)
    raw = SSDLITE | CONTENDERS[arguments.model][1]
    raw |= {
        "model_name": arguments.model,
        "training_batch_size": str(arguments.batch),
        "number_of_epochs": str(arguments.epochs),
        "warmup_cosine_lr_warmup_epochs": "1",
        "evaluation_frequency": str(arguments.epochs),
        "use_pretrained_model": "0",
    }
    sides: dict[str, dict[int, dict[str, Any]]] = {"torchvision": {}, "tilewise": {}}
    for seed in arguments.seeds:
        seeded = raw | {"seed": str(seed)}
        sides["tilewise"][seed] = train_once(arguments.data, seeded)
        sides["torchvision"][seed] = train_reference(arguments.data, seeded, seed)
        print(seed, {side: runs[seed] for side, runs in sides.items()}, file=sys.stderr)
    result = {
        "data": arguments.data.name,
        "device": device_name(),
        "hyperparameters": raw,
        **{side: {"mean": summary(runs), "seeds": runs} for side, runs in sides.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
