"""What a teacher costs a training step, by its own forward pass: a JSON line a pair and kind of maps.

python benchmarks/distillation_cost.py [--side 320] [--batch 4] [--rounds 7] [--threads 1]

A student's step (forward, losses, backward) with and without a teacher, and the teacher's forward pass alone,
take turns on the same views; the figures are their medians. ``more`` is what the distilled step takes more,
in forward passes of the teacher: of its backbone and neck with ``neck``, of its heads, too, with ``logits``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container")]

from tilewise.models.build import build_detector  # noqa: E402
from tilewise.models.detector import Detector  # noqa: E402
from tilewise.models.spec import DetectorSpec  # noqa: E402
from tilewise.registry import family_of  # noqa: E402
from tilewise.targets import Targets  # noqa: E402
from tilewise.training.step.distillation import ChannelDistillation, Maps, Teacher  # noqa: E402
from tilewise.training.step.extra_losses import WithExtraLosses  # noqa: E402
from tilewise.views.view import Scaling  # noqa: E402

PAIRS = (("yolox_nano", "yolox_s"), ("gfl_resnet18_fpn", "gfl_resnet50_fpn"))
OBJECTS = 50


def build(name: str, side: int) -> Detector:
    """A model with fresh weights."""
    square = family_of(name).scaling == "square"
    scaling = Scaling(square=side) if square else Scaling(min_size=side, max_size=side)
    torch.manual_seed(0)
    model = build_detector(DetectorSpec(name, 1, scaling, None, 0.01, 0.5, 100))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def measure(student: str, teacher: str, maps: Maps, arguments: argparse.Namespace) -> dict[str, Any]:
    """One line."""
    side, generator = arguments.side, torch.Generator().manual_seed(0)
    images = [
        torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator)
        for _ in range(arguments.batch)
    ]
    corners = torch.rand((OBJECTS, 2), generator=generator) * (side - 24)
    boxes = torch.cat([corners, corners + 20], dim=1)
    of_each = Targets(boxes, torch.zeros(OBJECTS, dtype=torch.int64), torch.zeros(OBJECTS, dtype=torch.bool))
    targets = [of_each] * arguments.batch
    model, taught = build(student, side).train(), build(teacher, side).eval()
    distillation = ChannelDistillation(model, [Teacher(taught, [(0, 0)])], maps=maps, view_size=(side, side))
    plain, distilled = WithExtraLosses(model, []), WithExtraLosses(model, [distillation])

    def step(learner: WithExtraLosses) -> None:
        torch.stack(list(learner(images, targets).values())).sum().backward()
        learner.zero_grad()

    def look() -> None:
        with torch.no_grad():
            if maps == "neck":
                taught.feature_maps(images)
            else:
                taught.outputs(taught.transform(images))

    work = {"plain": lambda: step(plain), "distilled": lambda: step(distilled), "teacher": look}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(arguments.rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    more = (middle["distilled"] - middle["plain"]) / middle["teacher"]
    return {
        "student": student,
        "teacher": teacher,
        "maps": maps,
        **{f"{name}_ms": round(1000 * value) for name, value in middle.items()},
        "more": round(more, 2),
    }


def main() -> None:
    """Measure each pair with both kinds of maps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    kinds: tuple[Maps, ...] = ("neck", "logits")
    for student, teacher in PAIRS:
        for maps in kinds:
            print(json.dumps(measure(student, teacher, maps, arguments)), flush=True)


if __name__ == "__main__":
    main()
