"""What calibration chooses when a training starts, beside each setting by hand: a JSON line a model.

python benchmarks/calibration.py DATA [MODEL …] [--rounds 3] [--seconds 3] [--busy]

Each job chooses its precision and threads as `train` does; then its own loop runs with every precision that
this CPU has and every power of two of its threads, in turns. The ratio is that of the choice to the best.
With --busy another process computes on one core all the while.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from tilewise.data.channel import DataSet  # noqa: E402
from tilewise.registry import family_of  # noqa: E402
from tilewise.training.job.calibration import Setting  # noqa: E402
from tilewise.training.step.amp import has_bf16_instructions  # noqa: E402
from training_speed import TrainSpeed, prepare, read_data  # noqa: E402

MODELS = (
    "ssdlite_mobilenet_v3_large",
    "ssd_vgg16",
    "ssd_resnet50",
    "yolox_nano",
    "yolox_tiny",
    "yolox_s",
    "gfl_resnet18_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "fasterrcnn_resnet18_fpn",
)
SIDE = "320"


@contextlib.contextmanager
def busy_neighbour(*, wanted: bool) -> Iterator[None]:
    """Another process that computes without end on one thread."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10**6))"]) if wanted else None
    try:
        yield
    finally:
        if neighbour:
            neighbour.kill()
            neighbour.wait()


def hyperparameters_of(model: str) -> dict[str, Any]:
    """Of a job whose views are about 320 pixels wide."""
    if family_of(model).scaling == "sides":
        return {"model_name": model, "training_batch_size": 4, "min_size": SIDE, "max_size": SIDE}
    return {"model_name": model, "training_batch_size": 4, "image_size": SIDE}


def rate(speed: TrainSpeed, threads: int, seconds: float) -> float:
    """Images a second of a job's loop."""
    torch.set_num_threads(threads)
    images, first = speed.loop(1)
    batches = max(2, round(seconds / first))
    images, taken = speed.loop(batches)
    return images / taken


def compare(data: DataSet, model: str, rounds: int, seconds: float) -> dict[str, Any]:
    """The choice for a model, and the rate of each setting."""
    prepare(None)
    most, raw = torch.get_num_threads(), hyperparameters_of(model)
    chosen_job = TrainSpeed(data, raw)
    chosen = Setting(str(chosen_job.trainer.job.hp.precision), chosen_job.trainer.threads.threads)
    precisions = ["fp32", "bf16"][: 1 + has_bf16_instructions()]
    jobs = {precision: TrainSpeed(data, raw | {"precision": precision}) for precision in precisions}
    threads = [2**power for power in range(most.bit_length()) if 2**power <= most]
    settings = [Setting(precision, count) for precision in precisions for count in threads]
    rates: dict[Setting, list[float]] = {setting: [] for setting in settings}
    for job in jobs.values():
        job.trainer.threads.active = False
    for turn in range(rounds):
        for setting in settings[:: 1 if turn % 2 else -1]:
            rates[setting].append(rate(jobs[setting.precision], setting.threads, seconds))
    medians = {setting: statistics.median(values) for setting, values in rates.items()}
    best = max(medians, key=lambda setting: medians[setting])
    return {
        "model": model,
        "images_per_second": {str(setting): round(value, 2) for setting, value in medians.items()},
        "chosen": str(chosen),
        "best": str(best),
        "ratio": round(medians[chosen] / medians[best], 3),
    }


def main() -> None:
    """Compare the models that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--busy", action="store_true")
    arguments = parser.parse_args()
    data = read_data(arguments.data)
    with busy_neighbour(wanted=arguments.busy):
        for model in arguments.models:
            found = compare(data, model, arguments.rounds, arguments.seconds)
            print(json.dumps(found | {"busy": arguments.busy}), flush=True)


if __name__ == "__main__":
    main()
