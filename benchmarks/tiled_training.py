"""Ways of looking at images in training, with one budget of pixels, over several seeds: prints JSON.

python benchmarks/tiled_training.py DATA [name=value …] [--mpx 6000] [--seeds 0 1 2] [--ways whole grid …]

DATA holds train.json, val.json (COCO) and images/. Each way trains so many epochs that the budget of pixels,
in millions, is used; `sniper_third` has a third of it. Each run is one training job, a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "container")]

from pixels import pixels_of_an_epoch  # noqa: E402
from runs import (  # noqa: E402
    SSDLITE,
    add_arguments,
    read_training_images,
    settings,
    summary,
    train_seeds,
)
from tilewise.data.records import Records  # noqa: E402

WAYS = {
    "whole": {"training_views": "whole"},
    "grid": {"tile_grid_size": "3x2", "tile_merge": "nms", "negative_views_ratio": "0"},  # Azure's way
    "grid_ours": {"tile_grid_size": "3x2"},
    "fixed": {"training_views": "fixed"},
    "snip": {"training_views": "snip"},
    "sniper": {"training_views": "sniper"},
    "sniper_alarms": {"training_views": "sniper", "negative_views": "false_alarms"},
    "sniper_third": {"training_views": "sniper"},
}
SHARES = {"sniper_third": 1 / 3}


def hyperparameters_of(way: str, records: Records, mpx: float, chosen: dict[str, str]) -> dict[str, str]:
    """A way's hyperparameters, with as many epochs as its budget allows and one validation, at the end."""
    raw = SSDLITE | WAYS[way] | chosen
    budget = mpx * 1e6 * SHARES.get(way, 1.0)
    epochs = max(1, round(budget / pixels_of_an_epoch(records, raw)))
    return raw | {
        "number_of_epochs": str(epochs),
        # None: the ways' epochs differ in length, and a warm-up has whole epochs.
        "warmup_cosine_lr_warmup_epochs": "0",
        "evaluation_frequency": str(epochs),
    }


def main() -> None:
    """Run the ways and seeds and print their figures, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_intermixed_args()
    chosen = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    records = read_training_images(arguments.data)
    ways: dict[str, Any] = {}
    for way in arguments.ways:
        raw = hyperparameters_of(way, records, arguments.mpx, chosen)
        runs = train_seeds(arguments, raw)
        ways[way] = {"hyperparameters": raw, "mean": summary(runs), "seeds": runs}
        print(way, json.dumps(ways[way]["mean"]), file=sys.stderr)
    result = settings(arguments) | {"ways": ways}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
