"""Peak memory of tiled inference on one very large image, in tiles that need all its pixels: prints JSON.

python benchmarks/large_image.py [--width 20000] [--height 15000] [--tile 512]

The detector is an SSDlite of 320 px with random weights: what it finds says nothing, what it needs does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container")]

import torch  # noqa: E402
from tilewise.inference.detections import merge_instances  # noqa: E402
from tilewise.inference.predictor import Predictor  # noqa: E402
from tilewise.inference.torch_backend import TorchBackend  # noqa: E402
from tilewise.inference.view_plan import ViewPlan  # noqa: E402
from tilewise.models.build import build_detector  # noqa: E402
from tilewise.models.spec import DetectorSpec  # noqa: E402
from tilewise.tiling.spec import Tiling  # noqa: E402
from tilewise.views.view import Scaling  # noqa: E402
from torchvision.io import write_jpeg  # noqa: E402


def write_image(path: Path, width: int, height: int) -> None:
    """A JPEG of stripes."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, ::7] = 90
    write_jpeg(image, str(path), 80)


def predict(path: Path, tile: int) -> dict[str, Any]:
    """Look at the image in tiles; the figures of this process."""
    spec = DetectorSpec("ssdlite_mobilenet_v3_large", 2, Scaling(square=320), None, 0.4, 0.45, 100)
    detector = build_detector(spec)
    plan = ViewPlan(spec.scaling, Tiling("fixed", tile_size=tile))
    predictor = Predictor(TorchBackend(detector), plan, ("a", "b"), merge=merge_instances)
    predictor.warm_up()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    predictor.predict(path.read_bytes())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "GB_before": round(before * 1024 / 1e9, 2),
        "GB_peak": round(peak * 1024 / 1e9, 2),
    }


def main() -> None:
    """Write the image and look at it, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--width", type=int, default=20_000)
    parser.add_argument("--height", type=int, default=15_000)
    parser.add_argument("--tile", type=int, default=512)
    arguments = parser.parse_args()
    size = {"width": arguments.width, "height": arguments.height, "tile": arguments.tile}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jpg"
        # spawned, so that the one's memory is not counted as the other's
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            pool.apply(write_image, (path, arguments.width, arguments.height))
            figures = pool.apply(predict, (path, arguments.tile))
    print(json.dumps({**size, **figures}, indent=2))


if __name__ == "__main__":
    main()
