"""A training job that gets SIGTERM in each of its phases: exit code, seconds, and what /opt/ml/model holds.

Starts ``train`` once for each phase. The signal is sent from inside, so that it comes when that phase has
just begun: what the phase begins with is wrapped, and nothing else is changed. Prints JSON; fails where a job
does not leave with 0, or leaves a model that is not whole.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from small_job import ROOT, lay_out, model_in, start

EPOCHS, IMAGES = 3, 40

PHASES: dict[str, tuple[str, str, int]] = {
    "start-up: the configuration is read": ("tilewise.platform", "read_job", 1),
    "start-up: the images are read": ("tilewise.data.channel", "parse_channel", 1),
    "start-up: the detector is built": ("tilewise.tasks.detection", "build_detector", 1),
    "first step": ("tilewise.training.step.train_step", "TrainStep.learn", 1),
    "middle of the first epoch": ("tilewise.training.step.train_step", "TrainStep.learn", 5),
    "first validation": ("tilewise.tasks.detection", "evaluate", 1),
    "middle of a later epoch": ("tilewise.training.step.train_step", "TrainStep.learn", 15),
    "a later validation": ("tilewise.tasks.detection", "evaluate", 2),
    "writing the first model": ("tilewise.inference.artifact", "save_file", 1),
    "writing a later checkpoint": ("tilewise.training.checkpointing.checkpoints", "_write", 2),
    "writing the report": ("tilewise.training.job.outputs", "write_report", 1),
}
"""What each begins with: a module, a function in it, and which of its calls."""


def wrap(module: str, name: str, call: int, moment: Path) -> None:
    """Let the ``call``-th call of a function begin with SIGTERM to this process."""
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)
    calls = iter(range(1, sys.maxsize))

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            moment.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGTERM)
        return function(*arguments, **named)

    setattr(owner, last, wrapped)


def play(phase: str) -> None:
    """Be the job, with that signal in it."""
    sys.path.insert(0, str(ROOT / "container"))
    from tilewise.platform import StopRequest, base_dir

    stop = StopRequest().listen()
    wrap(*PHASES[phase], base_dir() / "moment")
    from tilewise.commands.train import main as train

    sys.exit(train(stop))


def measure(phase: str, folder: Path) -> dict[str, Any]:
    """Run a job with the signal in one phase."""
    lay_out(folder, EPOCHS, IMAGES)
    process = start(folder, __file__, "--play", phase)
    code = process.wait()
    end = time.time()
    if not (folder / "moment").exists():
        sys.exit(f"the phase {phase!r} did not come:\n{(folder / 'log').read_text()[-3000:]}")
    return {
        "phase": phase,
        "exit_code": code,
        "seconds": round(end - float((folder / "moment").read_text()), 2),
        "model": model_in(folder / "model"),
        "checkpoints": len(list((folder / "checkpoints").glob("checkpoint-*.pt"))),
        "report": (folder / "output" / "data" / "report.html").exists(),
        "failure_file": (folder / "output" / "failure").exists(),
    }


def main() -> None:
    """Measure each phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--play", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        play(arguments.play)
    found = []
    for phase in PHASES:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(phase, Path(folder) / "ml"))
    print(json.dumps(found, indent=1))
    wrong = [facts for facts in found if facts["exit_code"] or "BROKEN" in facts["model"]]
    if wrong:
        sys.exit(f"these did not end as they must: {wrong}")


if __name__ == "__main__":
    main()
