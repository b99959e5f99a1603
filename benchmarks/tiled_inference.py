"""Tiled inference beside SAHI's: the same weights, the same tiles, the same images. Prints JSON.

python benchmarks/tiled_inference.py MODEL DATA [--tile 1024] [--repeats 3] [--limit N]

MODEL is the folder of an SSD's or SSDlite's model.tar.gz; DATA holds fullres.json and images_fullres/
(hemocytometer's 4908 x 3264 px). Each side runs in a process of its own. Needs PyPI's `sahi`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container")]

import torch  # noqa: E402
from tilewise.data.annotations import Report, make_records  # noqa: E402
from tilewise.data.classes import in_classes  # noqa: E402
from tilewise.data.coco import read_coco  # noqa: E402
from tilewise.data.folder import Folder  # noqa: E402
from tilewise.data.records import Records  # noqa: E402
from tilewise.detections import Detections  # noqa: E402
from tilewise.evaluation.coco import coco_metrics  # noqa: E402
from tilewise.inference.artifact import Artifact  # noqa: E402
from tilewise.inference.predictor import Predictor  # noqa: E402
from tilewise.views.tiling import TileOptions  # noqa: E402

OVERLAP = 0.2
Predict = Callable[[Path], Detections]


def tilewise(model: Path, tile: int) -> Predict:
    """Tilewise's own way."""
    predictor = Predictor.load(model, TileOptions(tile_size=tile, overlap=OVERLAP))
    return lambda path: predictor.predict(path.read_bytes()).detections


def sahi(model: Path, tile: int) -> Predict:
    """SAHI's way with the same network, behind torchvision's own transform, which resizes each slice."""
    from sahi.models.torchvision import TorchVisionDetectionModel
    from sahi.predict import get_sliced_prediction
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    torch.set_flush_denormal(True)
    artifact = Artifact.load(model)
    network: Any = artifact.detector.network
    transform, side = network.transform, artifact.spec.scaling.square
    mean, std = ((values.flatten() / 255).tolist() for values in (transform.mean, transform.std))
    square: dict[str, Any] = {"size_divisible": 1, "fixed_size": (side, side)}
    network.transform = GeneralizedRCNNTransform(side, side, mean, std, **square)
    network.to(memory_format=torch.channels_last)
    detector = TorchVisionDetectionModel(
        model=network,
        confidence_threshold=artifact.spec.score_threshold,
        device="cpu",
        category_mapping={str(index): str(index) for index in range(artifact.spec.num_classes + 1)},
    )

    def predict(path: Path) -> Detections:
        with torch.inference_mode():
            found = get_sliced_prediction(
                str(path),
                detector,
                slice_height=tile,
                slice_width=tile,
                overlap_height_ratio=OVERLAP,
                overlap_width_ratio=OVERLAP,
                verbose=0,
            ).object_prediction_list
        scores = torch.tensor([float(one.score.value) for one in found])
        boxes = torch.tensor([one.bbox.to_xyxy() for one in found], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([one.category.id - 1 for one in found], dtype=torch.int64)
        order = scores.argsort(descending=True, stable=True)
        return Detections(boxes, scores, labels)[order]

    return predict


def read(data: Path, classes: tuple[str, ...], limit: int) -> Records:
    """The full-resolution images with their objects."""
    content = read_coco(data / "fullres.json", Folder(data / "images_fullres"))
    examples = in_classes(content, classes, "fullres.json", "the model")
    return make_records(examples[:limit], Report("fullres"))


def run(side: str, model: Path, data: Path, tile: int, repeats: int, limit: int) -> dict[str, Any]:
    """Time one side in this process; the first image warms up, and is timed in no round."""
    predict = {"tilewise": tilewise, "sahi": sahi}[side](model, tile)
    classes = Artifact.load(model).classes
    records = read(data, classes, limit)
    predict(records[0].path)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = [predict(record.path) for record in records]
        seconds.append(time.perf_counter() - start)
    metrics = coco_metrics(records, found, classes)
    return {
        "images_per_second": round(len(records) / min(seconds), 3),
        "peak_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "AP": metrics["AP"],
        "AP50": metrics["AP50"],
        "detections": sum(map(len, found)),
    }


def main() -> None:
    """Run both sides, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=1000, help="images")
    parser.add_argument("--side", choices=("tilewise", "sahi"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        paths = arguments.side, arguments.model, arguments.data
        print(json.dumps(run(*paths, arguments.tile, arguments.repeats, arguments.limit)))
        return
    sides = {}
    for side in ("tilewise", "sahi"):
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        sides[side] = json.loads(done.stdout.splitlines()[-1])
    faster = sides["tilewise"]["images_per_second"] / sides["sahi"]["images_per_second"]
    result = {"tile": arguments.tile, "threads": torch.get_num_threads(), **sides, "faster": round(faster, 2)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
