"""A job of some seconds an epoch, laid out as SageMaker does it, for the benchmarks that interrupt it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SIDE = 160
HYPERPARAMETERS = {
    "model_name": "ssdlite_mobilenet_v3_large",
    "image_size": "128",
    "training_batch_size": "4",
    "use_pretrained_model": "0",
    "num_workers": "0",
    "optimizer": "adamw",
    "learning_rate": "0.002",
    "warmup_cosine_lr_warmup_epochs": "1",
    "gradient_accumulation_step": "3",
    "early_stopping": "0",
    "box_score_threshold": "0.01",
}


def lay_out(base: Path, epochs: int, images: int) -> None:
    """Make a job's folders, with checkpoints, and images of bright squares on noise."""
    for folder in ("model", "checkpoints", "output/data", "input/config"):
        (base / folder).mkdir(parents=True)
    for channel, count in (("train", images), ("validation", images // 4)):
        _make_channel(base / "input" / "data" / channel, count, seed=len(channel))
    configuration = {
        "hyperparameters": HYPERPARAMETERS | {"number_of_epochs": str(epochs)},
        "inputdataconfig": {name: {"TrainingInputMode": "File"} for name in ("train", "validation")},
        "resourceconfig": {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"},
    }
    for name, content in configuration.items():
        (base / "input" / "config" / f"{name}.json").write_text(json.dumps(content))


def _make_channel(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        pixels = rng.integers(90, size=(SIDE, SIDE, 3), dtype=np.uint8)
        name = f"{index:03}.png"
        for x, y, side in rng.integers((0, 0, 12), (100, 100, 50), size=(index % 4, 3)).tolist():
            pixels[y : y + side, x : x + side] = 220
            box = {"bbox": [x, y, side, side], "area": side**2, "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": index, "category_id": 0, **box})
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": index, "file_name": name, "width": SIDE, "height": SIDE})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 0, "name": "square"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))


def start(base: Path, *command: str) -> subprocess.Popen[str]:
    """Start ``train``, or another command, on a job's folders; its log goes to ``<base>/log``."""
    environ = os.environ | {"SAGEMAKER_BASE_DIR": str(base), "PYTHONUNBUFFERED": "1"}
    with (base / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, *(command or [str(ROOT / "train")])],
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=base,
            text=True,
        )


def model_in(folder: Path) -> str:
    """What a model folder holds: ``empty``, or ``whole`` and the epoch of the model; else ``BROKEN``."""
    sys.path.insert(0, str(ROOT / "container"))
    from tilewise.errors import UserError
    from tilewise.inference.artifact import Artifact

    if not any(not path.name.startswith(".") for path in folder.iterdir()):
        return "empty"
    try:
        epoch = Artifact.load(folder).metrics.get("epoch")
    except UserError as error:
        return f"BROKEN: {error}"
    return f"whole, validated in epoch {epoch}" if epoch is not None else "whole, not validated"
