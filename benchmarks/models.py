"""Parameters, GFLOPs and training speed of every model: prints one JSON line for each.

python benchmarks/models.py [MODEL …] [--classes 80] [--batch 2] [--steps 5] [--threads N]

GFLOPs are those of the convolutions (Faster R-CNN's without its second stage) on one image of the model's
default size, for models that scale by sides 800 x 600 pixels; a multiplication and an addition are two. Speed
is that of the bare training step, on ready tensors with four objects an image: forward, backward, SGD.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container")]

from tilewise.hyperparameters import parse_hyperparameters  # noqa: E402
from tilewise.hyperparameters.models import AVAILABLE_MODELS  # noqa: E402
from tilewise.models.build import build_detector  # noqa: E402
from tilewise.models.detector import Detector  # noqa: E402
from tilewise.models.spec import DetectorSpec  # noqa: E402
from tilewise.training.cpu import tune_cpu  # noqa: E402
from tilewise.views.sample import Sample  # noqa: E402
from tilewise.views.view import Scaling  # noqa: E402

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
    batch, _ = network.transform([torch.zeros((3, height, width), dtype=torch.uint8)])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        maps = network.backbone(batch.tensors)
        features = list(maps.values()) if isinstance(maps, dict) else maps
        network.rpn.head(features) if hasattr(network, SECOND_STAGE) else network.head(features)
    return float(counter.get_total_flops()) / 1e9


def make_samples(batch: int, width: int, height: int, classes: int) -> list[Sample]:
    """Noise with four objects an image."""
    corner = torch.rand(batch, 4, 2) * torch.tensor([width * 0.7, height * 0.7])
    boxes = torch.cat([corner, corner + 16 + torch.rand(batch, 4, 2) * 0.2 * height], dim=2)
    return [
        Sample(
            torch.randint(256, (3, height, width), dtype=torch.uint8),
            boxes[row],
            torch.randint(classes, (4,)),
            torch.zeros(4, dtype=torch.bool),
        )
        for row in range(batch)
    ]


def images_per_second(detector: Detector, samples: list[Sample], steps: int) -> float:
    """Of the bare training step, the first one not counted."""
    device = next(detector.parameters()).device
    moved = [
        Sample(*(tensor.to(device) for tensor in (each.pixels, each.boxes, each.labels, each.ignored)))
        for each in samples
    ]
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4, momentum=0.9)
    detector.train()
    start = 0.0
    for step in range(steps + 1):
        if step == 1:
            _wait(device)
            start = time.perf_counter()
        losses = detector([each.pixels for each in moved], moved)
        assert isinstance(losses, dict)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    _wait(device)
    return steps * len(samples) / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


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
    if arguments.steps:
        cuda = torch.cuda.is_available()
        detector.to("cuda" if cuda else "cpu", memory_format=torch.channels_last)  # type: ignore[call-overload]
        samples = make_samples(arguments.batch, width, height, arguments.classes)
        speed = images_per_second(detector, samples, arguments.steps)
        line |= {
            "batch": arguments.batch,
            "train_images_per_second": round(speed, 2),
            "device": torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads",
        }
    return line


def main() -> None:
    """Measure the models that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="all by default")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--size", type=int, help="pixels of a side instead of the default size")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="0: do not train")
    parser.add_argument("--threads", type=int, help="of the CPU")
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(AVAILABLE_MODELS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(AVAILABLE_MODELS)}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    tune_cpu()
    for name in arguments.models or AVAILABLE_MODELS:
        print(json.dumps(measure(name, arguments)), flush=True)


if __name__ == "__main__":
    main()
