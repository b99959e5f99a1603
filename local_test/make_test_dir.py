"""Make a small job that trains in a minute, laid out as /opt/ml: ``make_test_dir.py DIR``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from lay_out import lay_out_job
from make_demo_data import make_demo_data

HYPERPARAMETERS = {
    "model_name": "ssdlite_mobilenet_v3_large",
    "image_size": "256",
    "number_of_epochs": "3",
    "training_batch_size": "4",
    "learning_rate": "0.002",
    "optimizer": "adamw",
    "box_score_threshold": "0.01",
    "use_pretrained_model": "0",
}


def make_test_dir(folder: Path) -> None:
    """Fill an empty folder with a job: drawn photographs of cars, and hyperparameters. It keeps its owner.

    Raises:
        ValueError: the folder holds something.

    """
    if any(folder.iterdir()):
        raise ValueError(f"{folder} holds files, but no input/config: name an empty folder")
    owner = folder.stat()
    with tempfile.TemporaryDirectory() as scratch:
        make_demo_data(Path(scratch), 24, 8, seed=0, width=400, height=300, processes=1)
        lay_out_job(Path(scratch), Path(scratch) / "ml", HYPERPARAMETERS)
        shutil.copytree(Path(scratch) / "ml", folder, dirs_exist_ok=True)
    for path in folder.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid)


if __name__ == "__main__":
    try:
        make_test_dir(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"make_test_dir.py: {error}")
