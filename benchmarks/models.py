"""Parameters, GFLOPs and training speed of every model: prints one JSON line for each.

python benchmarks/models.py [MODEL …] [name=value …] [--data DATA] [--classes 80] [--batch 2] [--steps 5] …

GFLOPs are those of the convolutions (Faster R-CNN's without its second stage) on one image of the model's
default size, for models that scale by sides 800 x 600 pixels; a multiplication and an addition are two.

With DATA (train.json and images/), images a second of `train`'s loop, loading included, and of the bare step
on ready tensors of the same batches: forward, backward and the optimizer. Both take turns, a few steps each,
and their ratio, of the medians, is the loop's efficiency. ``name=value`` are hyperparameters of the training:
``precision=fp32``, ``compile=1``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container")]

from tilewise.hyperparameters import parse_hyperparameters  # noqa: E402
from tilewise.models.build import build_detector  # noqa: E402
from tilewise.models.detector import Detector  # noqa: E402
from tilewise.models.spec import DetectorSpec  # noqa: E402
from tilewise.registry import family_of, model_names  # noqa: E402
from tilewise.views.view import Scaling  # noqa: E402
from training_speed import TrainSpeed, device_name, prepare, read_data  # noqa: E402

WIDTH, HEIGHT = 4000, 3000
SECOND_STAGE = "roi_heads"


def make_spec(name: str, classes: int, size: int | None) -> DetectorSpec:
    """The model at its default size, or at ``size`` pixels."""
    hp = parse_hyperparameters({"model_name": name})
    if hp.image_size is not None:
        scaling = Scaling(square=size or hp.image_size)
    else:
        scaling = Scaling(min_size=size or hp.min_size, max_size=size or hp.max_size)
    return DetectorSpec(name, classes, scaling, None, hp.box_score_threshold, hp.nms_iou_threshold, 100)


def count_gflops(detector: Detector, width: int, height: int) -> float:
    """Of one image."""
    network: Any = detector.network.eval()
    batch = detector.transform([torch.zeros((3, height, width), dtype=torch.uint8)])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        if hasattr(network, SECOND_STAGE):
            network.rpn.head(list(network.backbone(batch.tensors).values()))
        else:
            network(batch.tensors)
    return float(counter.get_total_flops()) / 1e9


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One model's line."""
    torch.manual_seed(0)
    spec = make_spec(name, arguments.classes, arguments.size)
    width, height = spec.scaling.size_of(WIDTH, HEIGHT)
    detector = build_detector(spec)
    line = {
        "model": name,
        "input": f"{width}x{height}",
        "parameters_M": round(sum(each.numel() for each in detector.parameters()) / 1e6, 2),
        "GFLOPs": round(count_gflops(detector, width, height), 2),
    }
    if arguments.data:
        line |= measure_speed(name, arguments)
    return line


def measure_speed(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Of the loop and of the bare step, in turns."""
    raw = {"model_name": name, "training_batch_size": arguments.batch, "learning_rate": 1e-4}
    raw |= arguments.hyperparameters
    if arguments.size:
        square = family_of(name).scaling == "square"
        names = ("image_size",) if square else ("min_size", "max_size")
        raw |= dict.fromkeys(names, arguments.size)
    speed = TrainSpeed(read_data(arguments.data), raw)
    if speed.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    speed.loop(2)
    speed.bare(1)
    found: dict[str, list[float]] = {"train": [], "bare": []}
    for _ in range(arguments.rounds):
        for way, run in (("train", speed.loop), ("bare", speed.bare)):
            images, seconds = run(arguments.steps)
            found[way].append(images / seconds)
    loop, bare = (statistics.median(found[way]) for way in ("train", "bare"))
    peak = torch.cuda.max_memory_allocated() if speed.device.type == "cuda" else None
    return {
        **arguments.hyperparameters,
        "batch": arguments.batch,
        "precision": str(speed.train_step.precision.dtype).removeprefix("torch."),
        "train_images_per_second": round(loop, 2),
        "bare_images_per_second": round(bare, 2),
        "efficiency": round(loop / bare, 3),
        **({"peak_GiB": round(peak / 2**30, 2)} if peak else {}),
        "device": device_name(),
    }


def main() -> None:
    """Measure the models that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL | name=value", help="all models by default")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--size", type=int, help="pixels of a side instead of the default size")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--data", type=Path, help="a data set to train on; without it nothing is timed")
    parser.add_argument("--steps", type=int, default=5, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the CPU")
    arguments = parser.parse_intermixed_args()
    pairs = [each for each in arguments.models if "=" in each]
    arguments.hyperparameters = dict(pair.split("=", 1) for pair in pairs)
    arguments.models = [each for each in arguments.models if each not in pairs]
    unknown = set(arguments.models) - set(model_names())
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(model_names())}")
    prepare(arguments.threads)
    for name in arguments.models or model_names():
        print(json.dumps(measure(name, arguments)), flush=True)


if __name__ == "__main__":
    main()
