"""Ultralytics' YOLO from scratch, then what it finds: the part of `beside_peers.py` that its own Python runs.

PYTHON benchmarks/ultralytics_peer.py JOB.json FOUND.json

PYTHON has the package ultralytics (AGPL-3.0), which is measured only: nothing of Tilewise imports it, and
this program shares nothing but these two files with `beside_peers.py`. It trains by the package's defaults on
one thread, without weights and without mixed precision, whose test would fetch some; its clock counts the
seconds of the CPU, so that other work on the machine costs it no epochs.

JOB has `model`, such as yolo11n; `data`, a folder with images/ and labels/; `classes`; `image_size`;
`minutes` of training; `seed`; and `images`: the `path` of each and the `windows` of it to look at, as left,
top, right, bottom. FOUND gets `images`: of each window in turn, boxes in pixels of the image, scores and
labels; the minutes of the CPU that training took, and the epochs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LEAST_SCORE, MOST_BOXES = 0.001, 1000
"""Of a view: what the package itself evaluates with, and more than the densest image of the sets holds."""


def write_data(job: dict[str, Any], folder: Path) -> Path:
    """The package's description of the data; its validation, which it cannot do without, has one image."""
    data = Path(job["data"]).resolve()
    first = sorted((data / "images").iterdir())[0]
    (folder / "one.txt").write_text(f"{first}\n")
    content = {
        "path": str(data),
        "train": "images",
        "val": str(folder / "one.txt"),
        "nc": len(job["classes"]),
    }
    path = folder / "data.yaml"  # JSON is YAML
    path.write_text(json.dumps(content | {"names": dict(enumerate(job["classes"]))}))
    return path


def train(job: dict[str, Any], folder: Path) -> tuple[Any, dict[str, Any]]:
    """The trained model, and what it took."""
    import torch
    from ultralytics import YOLO  # type: ignore[import-not-found]
    from ultralytics.engine import trainer as engine  # type: ignore[import-not-found]

    engine.time = SimpleNamespace(time=time.process_time)
    spent: dict[str, Any] = {}
    start = time.process_time()

    def note(trainer: Any) -> None:
        spent.update(cpu_minutes=(time.process_time() - start) / 60, epochs=trainer.epoch + 1)

    torch.set_num_threads(1)
    model = YOLO(f"{job['model']}.yaml")
    model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(1))
    model.add_callback("on_train_epoch_end", note)
    model.train(
        data=str(write_data(job, folder)),
        imgsz=job["image_size"],
        time=job["minutes"] / 60,
        seed=job["seed"],
        device="cpu",
        workers=0,
        pretrained=False,
        amp=False,
        val=False,
        plots=False,
        verbose=False,
        project=str(folder),
        name="run",
    )
    return YOLO(folder / "run" / "weights" / "last.pt"), spent


def look(model: Any, job: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """What it finds in each window of each image."""
    import torch
    from PIL import Image

    found = []
    for image in job["images"]:
        with Image.open(image["path"]) as opened:
            pixels = opened.convert("RGB")
        of_windows = []
        for left, top, right, bottom in image["windows"]:
            (result,) = model.predict(
                pixels.crop((left, top, right, bottom)),
                imgsz=job["image_size"],
                conf=LEAST_SCORE,
                max_det=MOST_BOXES,
                device="cpu",
                verbose=False,
            )
            boxes = result.boxes.xyxy.double() + torch.tensor([left, top, left, top])
            scores, labels = result.boxes.conf.tolist(), result.boxes.cls.int().tolist()
            of_windows.append({"boxes": boxes.tolist(), "scores": scores, "labels": labels})
        found.append(of_windows)
    return found


def main() -> None:
    """Train, look, write."""
    job = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "OMP_NUM_THREADS": "1",
            "YOLO_CONFIG_DIR": folder,
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
        }
        model, spent = train(job, Path(folder))
        found = look(model, job)
    Path(sys.argv[2]).write_text(json.dumps(spent | {"images": found}))


if __name__ == "__main__":
    main()
