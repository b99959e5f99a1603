"""``tile_grid_size=auto`` beside the best of several grids, with one budget of pixels: prints JSON.

python benchmarks/auto_grid.py DATA [name=value …] [--mpx 6000] [--seeds 0 1 2] [--grids none 2x1 …]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "container")]

from runs import add_arguments, read_training_images, settings, summary, train_seeds  # noqa: E402
from tiled_training import hyperparameters_of  # noqa: E402

GRIDS = ("none", "2x1", "2x2", "3x2", "4x3", "5x3")


def main() -> None:
    """Train with each grid, and with auto."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--grids", nargs="+", default=list(GRIDS))
    arguments = parser.parse_args()
    chosen = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    records = read_training_images(arguments.data)
    found: dict[str, Any] = {}
    for grid in (*arguments.grids, "auto"):
        tiles = {} if grid == "none" else {"tile_grid_size": grid, "training_views": "grid"}
        raw = hyperparameters_of("whole", records, arguments.mpx, chosen | tiles)
        runs = train_seeds(arguments, raw)
        mean = summary(runs)
        found[grid] = {"mean": mean, "hyperparameters": raw, "seeds": runs}
        print(grid, json.dumps(mean), file=sys.stderr)
    best = max(arguments.grids, key=lambda grid: found[grid]["mean"]["AP"])
    behind = found[best]["mean"]["AP"] - found["auto"]["mean"]["AP"]
    result = settings(arguments) | {
        "best": best,
        "auto_is_behind_by_AP_points": round(100 * behind, 2),
        "grids": found,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
