"""Tiled inference beside SAHI's: the same weights, the same tiles, the same images. Prints JSON.

python benchmarks/tiled_inference.py MODEL DATA [--tile 1024] [--score-threshold 0.01] [--repeats 3]
    [--limit N]

MODEL is the folder of an SSD's or SSDlite's model.tar.gz; DATA holds fullres.json and images_fullres/
(hemocytometer's 4908 x 3264 px). Each side runs in a process of its own; the best of its rounds counts. CPU
seconds are those of all threads, and do not depend on what else the machine does. Needs PyPI's `sahi`.
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

import numpy as np  # noqa: E402
import torch  # noqa: E402
from tilewise.data.channel_issues import ChannelIssues  # noqa: E402
from tilewise.data.checks import make_records  # noqa: E402
from tilewise.data.classes import in_classes  # noqa: E402
from tilewise.data.files.folder import Folder  # noqa: E402
from tilewise.data.formats.coco import read_coco  # noqa: E402
from tilewise.data.records import Records  # noqa: E402
from tilewise.evaluation.coco import coco_metrics  # noqa: E402
from tilewise.inference.artifact import Artifact  # noqa: E402
from tilewise.inference.predictor import Predictor  # noqa: E402
from tilewise.inference.torch_backend import TorchBackend  # noqa: E402
from tilewise.instances import Instances  # noqa: E402
from tilewise.models.detector import VisionModel  # noqa: E402
from tilewise.models.postprocess import detections_of  # noqa: E402
from tilewise.tiling.spec import TileOptions  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torchvision.models.detection.transform import GeneralizedRCNNTransform  # noqa: E402

OVERLAP = 0.2
Predict = Callable[[Path], Instances]


class AsTorchvisions(nn.Module):
    """A detector of square views behind torchvision's convention and its transform, which resizes them."""

    def __init__(self, detector: VisionModel, side: int):
        super().__init__()
        transform: Any = detector.transform
        mean, std = ((values.flatten() / 255).tolist() for values in (transform.mean, transform.std))
        square: dict[str, Any] = {"size_divisible": 1, "fixed_size": (side, side)}
        self.transform = GeneralizedRCNNTransform(side, side, mean, std, **square)
        self.network, self.postprocess = detector.network, detector.postprocess

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Images of values from 0 to 1 -> what is found in each, labels from 1."""
        batch, _ = self.transform(images)
        candidates = self.postprocess(self.network(batch.tensors), batch.image_sizes)
        found = [vars(each) for each in detections_of(candidates, self.postprocess.limits)]
        results = [
            {key: torch.from_numpy(one[key]) for key in ("boxes", "scores", "labels")} for one in found
        ]
        for result in results:
            result["labels"] = result["labels"] + 1
        sizes = [tuple(each.shape[-2:]) for each in images]
        scaled: list[dict[str, Tensor]] = self.transform.postprocess(results, batch.image_sizes, sizes)
        return scaled


def keep_from(detector: Any, score_threshold: float) -> None:
    """Keep what has at least this score."""
    postprocess = detector.postprocess
    postprocess.limits = postprocess.limits._replace(score_threshold=score_threshold)


def tilewise(model: Path, tile: int, score_threshold: float | None) -> Predict:
    """Tilewise's own way: the network is frozen if that is faster on this CPU, as `predict` does it."""
    predictor = Predictor.load(model, TileOptions(tile_size=tile, overlap=OVERLAP), backend="pytorch")
    if score_threshold is not None:
        assert isinstance(predictor.backend, TorchBackend)
        keep_from(predictor.backend.model, score_threshold)
    return lambda path: predictor.predict(path.read_bytes()).detections


def sahi(model: Path, tile: int, score_threshold: float | None) -> Predict:
    """SAHI's way with the same network."""
    from sahi.models.torchvision import TorchVisionDetectionModel
    from sahi.predict import get_sliced_prediction

    torch.set_flush_denormal(True)
    artifact = Artifact.load(model)
    if score_threshold is None:
        score_threshold = artifact.spec.score_threshold
    keep_from(artifact.model, score_threshold)
    side = artifact.spec.scaling.square
    assert side is not None
    network = AsTorchvisions(artifact.model, side).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector = TorchVisionDetectionModel(
        model=network,
        confidence_threshold=score_threshold,
        device="cpu",
        category_mapping={str(index): str(index) for index in range(artifact.spec.num_classes + 1)},
    )

    def predict(path: Path) -> Instances:
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
        scores = np.array([float(one.score.value) for one in found], np.float32)
        boxes = np.array([one.bbox.to_xyxy() for one in found], np.float32).reshape(-1, 4)
        labels = np.array([one.category.id - 1 for one in found], np.int64)
        order = np.argsort(-scores, kind="stable")
        return Instances(boxes, scores, labels).select(order)

    return predict


def read(data: Path, classes: tuple[str, ...], limit: int) -> Records:
    """The full-resolution images with their objects."""
    content = read_coco(data / "fullres.json", Folder(data / "images_fullres"))
    examples = in_classes(content, classes, "fullres.json", whose="the model")
    return make_records(examples[:limit], ChannelIssues("fullres"))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Time one side in this process; the first image warms up, and is timed in no round."""
    predict = {"tilewise": tilewise, "sahi": sahi}[asked.side](asked.model, asked.tile, asked.score_threshold)
    classes = Artifact.load(asked.model).classes
    records = read(asked.data, classes, asked.limit)
    predict(records[0].path)
    seconds, cpu_seconds = [], []
    for _ in range(asked.repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        found = [predict(record.path) for record in records]
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    metrics = coco_metrics(records, found, classes)
    return {
        "images_per_second": round(len(records) / min(seconds), 3),
        "images_per_CPU_second": round(len(records) / min(cpu_seconds), 3),
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
    parser.add_argument("--score-threshold", type=float, help="in place of the model's own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=1000, help="images")
    parser.add_argument("--side", choices=("tilewise", "sahi"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run(arguments)))
        return
    sides = {}
    for side in ("tilewise", "sahi"):
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        sides[side] = json.loads(done.stdout.splitlines()[-1])
    faster = {
        name: round(sides["tilewise"][name] / sides["sahi"][name], 2)
        for name in ("images_per_second", "images_per_CPU_second")
    }
    settings = {name: getattr(arguments, name) for name in ("tile", "score_threshold", "repeats")}
    result = {**settings, "threads": torch.get_num_threads(), **sides, "faster": faster}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
