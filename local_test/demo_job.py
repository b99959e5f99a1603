"""What demo.sh chooses: hyperparameters, and the image to show."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from lay_out import lay_out_job
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.registry import family_of, model_names

MINUTES = "5"

HYPERPARAMETERS = {
    "model_name": "yolox_tiny",
    "image_size": "320",
    "training_batch_size": "4",
    "validation_batch_size": "8",
    "optimizer": "adamw",
    "learning_rate": "0.001",
    "weight_decay": "0.01",
    "early_stopping": "0",
    "box_score_threshold": "0.01",
    "validation_metric_type": "coco",
}


def demo_hyperparameters(chosen: dict[str, str]) -> dict[str, str]:
    """The demo's hyperparameters, with those that the user has chosen.

    There are tiles where the objects are too small for whole images, unless the user chose what to look at.
    The job plans its epochs by its minutes, unless the user chose them. A model that scales by its sides,
    such as Faster R-CNN, gets ``image_size`` for both.
    """
    raw = HYPERPARAMETERS | chosen
    if chosen.keys().isdisjoint(("minutes", "number_of_epochs", "epochs")):
        raw = {"minutes": MINUTES} | raw
    if chosen.keys().isdisjoint(("training_views", "tile_size")):
        raw = {"tile_grid_size": "auto"} | raw
    if raw["model_name"] in model_names() and family_of(raw["model_name"]).scaling == "sides":
        raw = {"min_size": raw["image_size"], "max_size": raw.pop("image_size")} | raw
    return raw


def lay_out_demo(data: Path, base: Path, chosen: dict[str, str]) -> None:
    """Lay out the demo's job; see :func:`lay_out_job`.

    Raises:
        UserError: a hyperparameter or the training file is wrong.

    """
    raw = demo_hyperparameters(chosen)
    parse_hyperparameters(raw)
    lay_out_job(data, base, raw)


def busiest_image(base: Path) -> Path:
    """The image with the most objects that the job did not train on, if it had a validation channel."""
    data = base / "input" / "data"
    channel = data / "validation" if (data / "validation").is_dir() else data / "train"
    content = json.loads((channel / "annotations.json").read_text(encoding="utf-8"))
    counts = Counter(annotation["image_id"] for annotation in content["annotations"])
    for image in sorted(content["images"], key=lambda image: -counts[image["id"]]):
        path: Path = channel / "images" / image["file_name"]
        if path.is_file():
            return path
    raise FileNotFoundError(f"channel {channel.name} holds none of its images")


def compare_endpoint(base: Path, url: str) -> None:
    """Print the mAP that the job logged, and the mAP of an endpoint's answers to the same images."""
    logged = json.loads((base / "model" / "model.json").read_text(encoding="utf-8"))["metrics"]
    channel = base / "input" / "data" / "validation"
    if not logged or not channel.is_dir():
        print("this job has no validation channel to compare with")
        return
    command = [sys.executable, "-m", "tilewise", "evaluate", f"{channel}/annotations.json", f"{channel}"]
    command += ["--endpoint", url, "--model", f"{base}/model"]
    answered = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for name in ("AP", "AP50"):
        print(f"{name}: logged {logged[name]:.4f}, from the endpoint's answers {answered[name]:.4f}")


def main() -> int:
    """``demo_job.py lay-out DATA BASE [name=value …]``, ``compare BASE URL`` or ``busiest BASE``."""
    try:
        if sys.argv[1] == "compare":
            compare_endpoint(Path(sys.argv[2]), sys.argv[3])
            return 0
        if sys.argv[1] == "busiest":
            print(busiest_image(Path(sys.argv[2])))
            return 0
        data, base = Path(sys.argv[2]), Path(sys.argv[3])
        chosen = dict(pair.split("=", 1) for pair in sys.argv[4:])
        lay_out_demo(data, base, chosen)
    except (OSError, ValueError, UserError) as error:
        print(f"demo.sh: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
