"""Seconds until a fresh endpoint is ready, and its workers' memory: a JSON line for each way to start.

python benchmarks/cold_start.py [--rounds 3]

SSDlite with its graph, one worker: ``serve`` from its start to the first ``/ping`` with 200, and the worker's
resident memory after an answer. Before a cold start, the files of Python, of its packages and of the model
leave the page cache; warm ones follow, and their median counts. The same in frozen PyTorch stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from endpoint_process import EndpointProcess  # noqa: E402
from serving_speed import photograph, prepare  # noqa: E402


def forget(*folders: Path) -> None:
    """Let the files below folders leave the page cache."""
    os.sync()
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start(workspace: Path, backend: str, image: bytes) -> dict[str, Any]:
    """Start once: seconds, MB, and whether PyTorch is in it."""
    begun = time.perf_counter()
    server = EndpointProcess(workspace, TILEWISE_BACKEND=backend, CUDA_VISIBLE_DEVICES="")
    try:
        server.wait_until_ready()
        seconds = time.perf_counter() - begun
        assert server.invoke(image)[0] == 200
        (worker,) = server.workers
        pages = int(Path(f"/proc/{worker}/statm").read_text().split()[1])
        return {
            "seconds": seconds,
            "worker_MB": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6),
            "pytorch": "libtorch" in Path(f"/proc/{worker}/maps").read_text(),
        }
    finally:
        server.close()


def main() -> None:
    """Start it cold, then warm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    image = photograph(640, 480)
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(name)
        (workspace / "ml").mkdir()
        prepare(workspace / "ml" / "model")
        stdlib, packages = (Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib"))
        for backend in ("onnx", "pytorch"):
            forget(stdlib, packages, workspace, ROOT / "container")
            cold = start(workspace, backend, image)
            warm = [start(workspace, backend, image) for _ in range(arguments.rounds)]
            line = {
                "backend": backend,
                "cold_s": round(cold["seconds"], 1),
                "warm_s": round(statistics.median(each["seconds"] for each in warm), 1),
                "worker_MB": warm[-1]["worker_MB"],
                "pytorch_loaded": warm[-1]["pytorch"],
                "load": round(os.getloadavg()[0], 1),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
