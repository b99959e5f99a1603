"""Milliseconds for an image at the endpoint, and what keeping memory does for it: a JSON line for each model.

python benchmarks/endpoint.py [MODEL …] [--rounds 10] [--image 1600x1200]

Two servers, ``serve`` as it is and one that leaves glibc's malloc as it found it, answer the same JPEG in
turns: the medians, pages of memory faulted in for an answer, resident memory after all, and how many times as
long the second takes. The detectors have random weights, and views of their default size.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from models import make_spec  # noqa: E402
from PIL import Image  # noqa: E402
from tilewise.commands.endpoint import ask_endpoint  # noqa: E402
from tilewise.errors import UserError  # noqa: E402
from tilewise.inference.artifact import Artifact  # noqa: E402
from tilewise.models.build import build_detector  # noqa: E402

MODELS = ("yolox_tiny", "ssdlite_mobilenet_v3_large", "fasterrcnn_resnet18_fpn")
CLASSES = ("a", "b", "c")
START = "import sys; from tilewise.serving import server; {}; sys.exit(server.main())"
SIDES = {"serve": "pass", "glibc": "server.keep_freed_memory = lambda *sizes, **heaps: None"}


class Endpoint:
    """A server with one worker, on a free port."""

    def __init__(self, base: Path, change: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environ = {
            "SAGEMAKER_BASE_DIR": str(base),
            "SAGEMAKER_BIND_TO_PORT": str(port),
            "SAGEMAKER_MODEL_SERVER_WORKERS": "1",
            "PYTHONPATH": str(ROOT / "container"),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", START.format(change)],
            env=os.environ | environ,
            stdout=sys.stderr,
        )

    def ask(self, image: bytes) -> float:
        """Milliseconds until the answer."""
        start = time.perf_counter()
        ask_endpoint(self.url, image)
        return 1000 * (time.perf_counter() - start)

    def wait(self, image: bytes) -> None:
        """Until it answers."""
        while self.process.poll() is None:
            try:
                self.ask(image)
            except UserError:
                time.sleep(0.5)
            else:
                return
        raise RuntimeError("the server has ended")

    def memory(self) -> tuple[int, int]:
        """Of the worker: pages faulted in since it began, and resident MB."""
        pid = self.process.pid
        (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        faults = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[7]
        pages = Path(f"/proc/{worker}/statm").read_text().split()[1]
        return int(faults), int(pages) * os.sysconf("SC_PAGE_SIZE") // 2**20


def measure(name: str, image: bytes, rounds: int) -> dict[str, Any]:
    """One model's line."""
    torch.manual_seed(0)
    spec = make_spec(name, len(CLASSES), None)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        model.mkdir()
        Artifact(build_detector(spec), spec, CLASSES, {}, {}, {}).save(model, "weights")
        sides = {side: Endpoint(Path(folder), change) for side, change in SIDES.items()}
        try:
            return {"model": name, **compare(sides, image, rounds)}
        finally:
            for side in sides.values():
                side.process.terminate()
                side.process.wait()


def compare(sides: dict[str, Endpoint], image: bytes, rounds: int) -> dict[str, Any]:
    """Both sides' figures, and how much longer glibc's own way takes."""
    for endpoint in sides.values():
        endpoint.wait(image)
        endpoint.ask(image)
    before = {side: endpoint.memory()[0] for side, endpoint in sides.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, endpoint in sides.items():
            times[side].append(endpoint.ask(image))
    medians = {side: statistics.median(each) for side, each in times.items()}
    figures: dict[str, Any] = {}
    for side, endpoint in sides.items():
        faults, resident = endpoint.memory()
        figures[f"{side}_ms"] = round(medians[side], 1)
        figures[f"{side}_page_faults"] = (faults - before[side]) // rounds
        figures[f"{side}_resident_MB"] = resident
    return figures | {"ratio": round(medians["glibc"] / medians["serve"], 2)}


def photograph(width: int, height: int) -> bytes:
    """A JPEG of coarse patches."""
    patches = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(patches).resize((width, height)).save(stream, "jpeg")
    return stream.getvalue()


def main() -> None:
    """Measure the models that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--image", default="1600x1200", metavar="WIDTHxHEIGHT")
    arguments = parser.parse_args()
    width, height = map(int, arguments.image.split("x"))
    for name in arguments.models:
        print(json.dumps(measure(name, photograph(width, height), arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
