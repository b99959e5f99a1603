"""A model in training, validated with running statistics of normalisation beside those computed anew.

python benchmarks/normalisation.py DATA OUT [name=value …]

DATA holds train.json, val.json (COCO) and images/. Trains the demo's job in OUT, with what is given, and
scores the model before each validation, too, while it has the running statistics of its training. Prints a
line of JSON for each validation. On one core with ``OMP_NUM_THREADS=1``.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container"), str(ROOT / "local_test")]

from demo_job import demo_hyperparameters  # noqa: E402
from lay_out import lay_out_job  # noqa: E402
from tilewise.training.trainer import Trainer  # noqa: E402

FIGURES = ("AP", "AP50", "AR")


def score_both() -> None:
    """Have trainers score twice, and print what they find."""
    validate = Trainer._validate

    def both(trainer: Trainer, epoch: int) -> bool:
        due = trainer.validator.due(epoch)
        before = trainer.validator.validate({}) if due else None
        done = validate(trainer, epoch)
        if before:
            scores = {"running": before[0], "anew": trainer.history.epochs[-1]["validation"]}
            line = {way: {name: round(each[name], 3) for name in FIGURES} for way, each in scores.items()}
            print(json.dumps({"epoch": epoch} | line), flush=True)
        return done

    Trainer._validate = both  # type: ignore[assignment, method-assign]


def main() -> None:
    """Train one job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    arguments = parser.parse_intermixed_args()
    chosen = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    lay_out_job(arguments.data, arguments.out, demo_hyperparameters(chosen))
    os.environ["SAGEMAKER_BASE_DIR"] = str(arguments.out)
    score_both()
    sys.argv = ["train"]
    runpy.run_path(str(ROOT / "train"), run_name="__main__")


if __name__ == "__main__":
    main()
