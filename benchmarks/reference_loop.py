"""`train`'s images a second beside those of torchvision's reference training: prints one JSON line a model.

python benchmarks/reference_loop.py DATA [MODEL …] [--batch 4] [--batches 3] [--rounds 4] [--threads N]

DATA holds train.json (COCO) and images/. Torchvision's side is what its references/detection does: its own
models with their defaults, its CocoDetection and transforms.v2 in its presets, a DataLoader with 4 processes,
SGD, the loss looked at in each step; written anew here, since that script is in no package. Ours is `train`'s
loop with its defaults, at the same input size and batch size. Both start from random weights in one process,
which flushes subnormal numbers and keeps freed memory for both, and take turns in rounds of a few batches.
The figure is that of each side's median round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models import detection
from torchvision.transforms import v2

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

from lay_out import find_coco_files  # noqa: E402
from training_speed import TrainSpeed, device_name, prepare, read_data, wait  # noqa: E402

REFERENCE_WORKERS = 4  # its script's default
SETTLE = 2.0  # seconds for the loader processes of the side that ran to load ahead what they may
LEARNING_RATE = 1e-4  # from random weights, torchvision's SSD diverges at 1e-3
SSD_FILL = {"others": (123, 117, 104)}
CONTENDERS: dict[str, tuple[str, dict[str, str], float]] = {
    "ssd_vgg16": ("ssd300_vgg16", {"image_size": "300"}, 1.7),
    "ssdlite_mobilenet_v3_large": ("ssdlite320_mobilenet_v3_large", {"image_size": "320"}, 1.7),
    "fasterrcnn_resnet50_fpn": ("fasterrcnn_resnet50_fpn", {"min_size": "800", "max_size": "1333"}, 1.3),
    "retinanet_resnet50_fpn": ("retinanet_resnet50_fpn", {"min_size": "800", "max_size": "1333"}, 1.3),
}
"""By our name: torchvision's, our hyperparameters for its input size, and the goal."""


def preset(model: str) -> v2.Compose:
    """The augmentation of torchvision's references for a model."""
    steps: list[Any] = [v2.ToImage()]
    if model.startswith("ssd300"):
        fill = {torch.Tensor: SSD_FILL["others"], "others": 0}
        steps += [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=fill), v2.RandomIoUCrop()]
    elif model.startswith("ssdlite"):
        steps += [v2.RandomIoUCrop()]
    steps += [v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    return v2.Compose([*steps[:-1], v2.SanitizeBoundingBoxes(), steps[-1]])


class Reference:
    """Torchvision's side.

    Args:
        model: torchvision's name of it.
        folder: holds train.json (COCO) and images/.
        classes: without the background.
        batch: images.
        workers: processes that load.
        seed: of the weights and the order.
        sides: the model's ``min_size`` and ``max_size``, where they are not its own.

    """

    def __init__(
        self,
        model: str,
        folder: Path,
        classes: int,
        batch: int,
        workers: int,
        seed: int = 0,
        sides: Mapping[str, int | None] | None = None,
    ):
        torch.manual_seed(seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        build = getattr(detection, model)
        weights = {"weights": None, "weights_backbone": None}
        self.model = build(**weights, num_classes=classes + 1, **(sides or {})).to(self.device).train()
        annotations = str(find_coco_files(folder)[0])
        with contextlib.redirect_stdout(sys.stderr):  # pycocotools says what it does
            plain = CocoDetection(str(folder / "images"), annotations, transforms=preset(model))
        data = wrap_dataset_for_transforms_v2(plain, target_keys=("boxes", "labels"))
        order = BatchSampler(RandomSampler(data), batch, drop_last=True)
        self.loader = DataLoader(
            data,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=lambda items: tuple(zip(*items, strict=True)),
        )
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
            trained, lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4
        )
        self.batches = self._forever()

    def _forever(self) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
        while True:
            yield from self.loader

    def loop(self, batches: int) -> tuple[int, float]:
        """Images and seconds of so many batches."""
        images_seen = 0
        start = time.perf_counter()
        for _ in range(batches):
            images, targets = next(self.batches)
            images = [image.to(self.device) for image in images]
            moved = [{name: value.to(self.device) for name, value in target.items()} for target in targets]
            total = sum(self.model(images, moved).values())
            if not math.isfinite(total.item()):
                raise RuntimeError("torchvision's loss is not finite")
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
            images_seen += len(images)
        wait(self.device)
        return images_seen, time.perf_counter() - start


def compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One model's line."""
    theirs, raw, goal = CONTENDERS[name]
    data = read_data(arguments.data)
    batch = arguments.batch
    ours = TrainSpeed(
        data, raw | {"model_name": name, "training_batch_size": batch, "learning_rate": LEARNING_RATE}
    )
    reference = Reference(theirs, arguments.data, len(data.classes), batch, arguments.reference_workers)
    sides = {"torchvision": reference.loop, "tilewise": ours.loop}
    for side in sides.values():
        side(arguments.warm_up)
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for name_of_side, run in sides.items():
            time.sleep(SETTLE)
            images, seconds = run(arguments.batches)
            speeds[name_of_side].append(images / seconds)
    middle = {side: statistics.median(values) for side, values in speeds.items()}
    return {
        "model": name,
        "batch": batch,
        "precision": str(ours.train_step.precision.dtype).removeprefix("torch."),
        **{f"{side}_images_per_second": round(value, 2) for side, value in middle.items()},
        "ratio": round(middle["tilewise"] / middle["torchvision"], 2),
        "goal": goal,
        "rounds": {side: [round(value, 2) for value in values] for side, values in speeds.items()},
        "our_kpx_an_image": round(ours.pixels / 1000),
        "device": device_name(),
    }


def main() -> None:
    """Compare the models that are named, or all four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="all by default")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--batches", type=int, default=3, help="of a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=2, help="batches that do not count")
    parser.add_argument(
        "--reference-workers", type=int, default=REFERENCE_WORKERS, help="its script's default"
    )
    parser.add_argument("--threads", type=int, help="of the CPU, on both sides")
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(CONTENDERS):
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    prepare(arguments.threads)
    for name in arguments.models or CONTENDERS:
        print(json.dumps(compare(name, arguments)), flush=True)


if __name__ == "__main__":
    main()
