"""Averages of the weights by several rules beside the weights themselves, all of one training: a JSON line.

python benchmarks/averages.py OUT [--seed 0] [--epochs 3]

Trains the demo's job and keeps, beside the average that the job has, one for each of RULES. In the end each
takes the place of the model's weights, and ``tilewise evaluate`` scores it on the validation channel. On one
core with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

import torch  # noqa: E402
from demo_job import lay_out_demo  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tilewise.training.step.ema import ModelEMA  # noqa: E402

DECAY = 0.9998
RULES: dict[str, Callable[[int], float]] = {
    "the weights themselves": lambda n: 0.0,
    "decay * (1 - exp(-n / 2000))": lambda n: DECAY * (1 - math.exp(-n / 2000)),
    "n / (n + 4)": lambda n: min(DECAY, n / (n + 4)),
    "(1 + n) / (10 + n)": lambda n: min(DECAY, (1 + n) / (10 + n)),
    "n / (n + 20)": lambda n: min(DECAY, n / (n + 20)),
    "n / (n + 40)": lambda n: min(DECAY, n / (n + 40)),
}
FIGURES = ("AP", "AP50", "AP_small")


class Averages:
    """One for each rule, which take in what the job's own average takes in."""

    def __init__(self) -> None:
        self.by_rule: dict[str, list[torch.Tensor]] = {}
        self.keys: list[str] = []
        self.steps = 0

    @torch.no_grad()
    def take_in(self, average: ModelEMA) -> None:
        """The weights of the last steps."""
        steps, self.steps = average.steps - self.steps, average.steps
        now = [new for _, new in average._weights]
        if not self.by_rule:
            weights = average._model.state_dict().items()
            self.keys = [key.removeprefix("network.") for key, value in weights if value.is_floating_point()]
            self.by_rule = {rule: [each.clone() for each in now] for rule in RULES}
        for rule, kept in RULES.items():
            torch._foreach_lerp_(self.by_rule[rule], now, 1 - kept(average.steps) ** steps)


def train_with(averages: Averages, base: Path) -> None:
    """The job in a folder like ``/opt/ml``."""
    take_in = ModelEMA._take_in

    def both(average: ModelEMA) -> None:
        if average.steps > averages.steps:
            averages.take_in(average)
        take_in(average)

    ModelEMA._take_in = both  # type: ignore[assignment, method-assign]
    os.environ["SAGEMAKER_BASE_DIR"] = str(base)
    try:
        runpy.run_path(str(ROOT / "train"), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


def scores(averages: Averages, base: Path) -> dict[str, Any]:
    """Of each rule."""
    model = base / "model"
    weights = model / json.loads((model / "model.json").read_text(encoding="utf-8"))["weights"]
    for graph in model.glob("*.onnx"):
        graph.unlink()  # it holds the job's own average
    own, channel, results = load_file(weights), base / "input" / "data" / "validation", {}
    for rule, tensors in averages.by_rule.items():
        taken = dict(zip(averages.keys, (each.contiguous() for each in tensors), strict=True))
        save_file(own | taken, weights)
        arguments = ["evaluate", str(channel / "annotations.json"), str(channel), "--model", str(model)]
        environ = os.environ | {"PYTHONPATH": str(ROOT / "container")}
        command = [sys.executable, "-m", "tilewise", *arguments]
        ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        results[rule] = {name: round(json.loads(ran.stdout)[name], 3) for name in FIGURES}
    return results


def main() -> None:
    """Train once, score each average."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--epochs", default="3")
    arguments = parser.parse_args()
    out: Path = arguments.out
    make = [sys.executable, str(ROOT / "local_test" / "make_demo_data.py"), str(out / "data")]
    environ = os.environ | {"PYTHONPATH": str(ROOT / "container")}
    subprocess.run([*make, "--width", "800", "--height", "600"], env=environ, check=True)
    chosen = {"seed": arguments.seed, "number_of_epochs": arguments.epochs, "precision": "fp32"}
    lay_out_demo(out / "data", out / "opt_ml", chosen | {"num_workers": "0"})
    sys.argv = ["train"]
    averages, started = Averages(), time.perf_counter()
    train_with(averages, out / "opt_ml")
    minutes = round((time.perf_counter() - started) / 60, 1)
    line = {"seed": arguments.seed, "epochs": arguments.epochs, "steps": averages.steps, "minutes": minutes}
    print(json.dumps(line | scores(averages, out / "opt_ml")))


if __name__ == "__main__":
    main()
