"""``tile_grid_size=auto`` beside the best of several grids and sizes, with one budget of pixels: prints JSON.

python benchmarks/auto_grid.py DATA [name=value …] [--mpx 6000] [--seeds 0 1 2] [--grids none 2x1 …]
    [--sizes 300 600 …] [--minutes 60] [--runs FILE]

``--sizes`` are sides of square tiles in pixels of the image, the same for all images. After so many minutes
no further job begins; what FILE has is not run again, so that the same command goes on there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "container")]

from runs import (  # noqa: E402
    add_arguments,
    read_training_images,
    require_time,
    settings,
    summary,
    train_once,
    train_seeds,
)
from tiled_training import hyperparameters_of  # noqa: E402

GRIDS = ("none", "2x1", "2x2", "3x2", "4x3", "5x3")


def main() -> None:
    """Train with each grid and size, and with auto, which comes first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--grids", nargs="*", default=list(GRIDS))
    parser.add_argument("--sizes", nargs="*", default=[])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_intermixed_args()
    chosen = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    records = read_training_images(arguments.data)
    ways: dict[str, dict[str, str]] = {
        name: {} if name == "none" else {"tile_grid_size": name, "training_views": "grid"}
        for name in ("auto", *arguments.grids)
    }
    ways |= {f"{size}px": {"tile_size": size, "training_views": "fixed"} for size in arguments.sizes}
    end = time.monotonic() + 60 * arguments.minutes

    def train(*args: Any, **options: Any) -> dict[str, Any]:
        require_time(end)
        return train_once(*args, **options)

    found: dict[str, Any] = {}
    try:
        for name, tiles in ways.items():
            raw = hyperparameters_of("whole", records, arguments.mpx, chosen | tiles)
            runs = train_seeds(arguments, raw, train)
            mean = summary(runs)
            found[name] = {"mean": mean, "hyperparameters": raw, "seeds": runs}
            print(name, json.dumps(mean), file=sys.stderr)
    except TimeoutError:
        print("the time is over: the same command goes on where this one stopped", file=sys.stderr)
    by_hand = found.keys() - {"auto"}
    if not by_hand:
        return
    best = max(by_hand, key=lambda name: found[name]["mean"]["AP"])
    behind = found[best]["mean"]["AP"] - found["auto"]["mean"]["AP"]
    result = settings(arguments) | {
        "best": best,
        "auto_is_behind_by_AP_points": round(100 * behind, 2),
        "grids": found,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
