"""Milliseconds for a view on a CPU by what runs the network: a JSON line a model and number of threads.

python benchmarks/backends.py [MODEL:SIDE …] [--threads 1,2] [--rounds 9]

Eager PyTorch, PyTorch traced and frozen, ONNX Runtime and, where it is installed, OpenVINO run the same
detector with random weights, decoding and the choice of candidates included, in turns: each one's least time.
``difference`` is by how much the best 100 scores differ from eager PyTorch's at most.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from models import make_spec  # noqa: E402
from tilewise.arrays import Array  # noqa: E402
from tilewise.inference.device import tune_device  # noqa: E402
from tilewise.inference.export import trace, write_onnx  # noqa: E402
from tilewise.inference.graph import OUTPUTS  # noqa: E402
from tilewise.inference.onnx_backend import OnnxBackend  # noqa: E402
from tilewise.models.build import build_detector  # noqa: E402
from tilewise.models.detector import Detector  # noqa: E402

MODELS = (
    "ssdlite_mobilenet_v3_large:320",
    "yolox_nano:416",
    "yolox_tiny:640",
    "ssd_vgg16:300",
    "retinanet_resnet50_fpn:400",
    "gfl_resnet18_fpn:400",
    "fasterrcnn_resnet18_fpn:400",
)

Run = Callable[[], Array]
"""Looks at the view; returns the candidates' scores."""


def measure(model: str, threads: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """One model's lines, one for each number of threads."""
    name, side = model.split(":")
    spec = make_spec(name, 4, int(side))
    torch.manual_seed(0)
    detector = build_detector(spec).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    width, height = spec.scaling.size_of(4, 3)
    view = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "graph.onnx"
        write_onnx(detector, spec.scaling, path)
        frozen = trace(detector, spec.scaling)
        for count in threads:
            torch.set_num_threads(count)
            runs = sides(detector, frozen, OnnxBackend(path, spec.limits(), count), view)
            if openvino_run := in_openvino(path, view, count):
                runs["openvino"] = openvino_run
            yield {"model": name, "view": f"{width}x{height}", "threads": count, **compare(runs, rounds)}


def sides(
    detector: Detector, frozen: torch.jit.ScriptModule, graph: OnnxBackend, view: Array
) -> dict[str, Run]:
    """What runs the network, by name."""
    image = torch.from_numpy(view).permute(2, 0, 1)
    return {
        "eager": lambda: detector.candidates([image]).scores[0].numpy(),
        "frozen": lambda: frozen(torch.from_numpy(view))[1].numpy(),
        "onnxruntime": lambda: graph.candidates(image.numpy())[1],
    }


def compare(runs: Mapping[str, Run], rounds: int) -> dict[str, Any]:
    """The least time of each, in turns, and by how much scores differ."""
    best = {side: np.sort(run())[::-1][:100] for side, run in runs.items()}
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for side, run in runs.items():
            started = time.perf_counter()
            run()
            times[side] = min(times[side], time.perf_counter() - started)
    difference = max(float(np.abs(each - best["eager"]).max()) for each in best.values())
    return {
        **{f"{side}_ms": round(1000 * seconds, 1) for side, seconds in times.items()},
        "difference": float(f"{difference:.1g}"),
        "load": round(os.getloadavg()[0], 1),
    }


def in_openvino(path: Path, view: Array, threads: int) -> Run | None:
    """The graph in OpenVINO, in single precision; None where that is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda: np.asarray(compiled(view)[OUTPUTS[1]])


def main() -> None:
    """Measure the models that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL:SIDE")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    tune_device()
    threads = [int(each) for each in arguments.threads.split(",")]
    for model in arguments.models:
        for line in measure(model, threads, arguments.rounds):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
