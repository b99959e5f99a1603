"""What the demo's training reaches on a data set, over several seeds: prints JSON.

python benchmarks/from_scratch.py DATA [--seeds 0 1 2] [--mpx 553] [name=value …]

DATA holds train.json, val.json (COCO) and images/. Each seed is one training job, a process of its own.
Where ``number_of_epochs`` is not given, its views have so many millions of pixels: four minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "container")]

from demo_job import demo_hyperparameters  # noqa: E402
from pixels import pixels_of_an_epoch  # noqa: E402
from runs import read_training_images, threads, train_once  # noqa: E402

FIGURES = ("AP", "AP50", "AP_small")


def main() -> None:
    """Run the seeds and print their figures, mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--mpx", type=float, default=553)
    arguments = parser.parse_intermixed_args()
    chosen = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    hyperparameters = demo_hyperparameters(chosen)
    if "minutes" not in chosen and "number_of_epochs" not in chosen:
        del hyperparameters["minutes"]
        pixels = pixels_of_an_epoch(read_training_images(arguments.data), hyperparameters)
        epochs = max(1, round(1e6 * arguments.mpx / pixels))
        hyperparameters |= {
            "number_of_epochs": str(epochs),
            "warmup_cosine_lr_warmup_epochs": str(max(1, epochs // 12)),
            "evaluation_frequency": str(max(1, -(-epochs // 5))),
        }
    runs = {
        seed: train_once(arguments.data, hyperparameters | {"seed": str(seed)}) for seed in arguments.seeds
    }
    spread = {
        name: [round(pick(run[name] for run in runs.values()), 4) for pick in (min, statistics.mean, max)]
        for name in FIGURES
    }
    result = {
        "data": arguments.data.name,
        "threads": threads(),
        "hyperparameters": hyperparameters,
        "seeds": runs,
        "min_mean_max": spread,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
