#!/usr/bin/env python3
"""Join a detector and a classifier into one model, which finds objects and says what each is.

python two_stages.py DETECTOR CLASSIFIER OUT [--margin 0.1] [--score-threshold 0.05]

DETECTOR and CLASSIFIER are the model.tar.gz of two training jobs, or folders of unpacked ones, and OUT is the
model.tar.gz of the endpoint. It needs Python alone. How to train the two is in docs/two_stages.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

CLASSIFIERS = ("classification", "multilabel_classification")


def unpack(model: Path, folder: Path) -> Path:
    """The folder of a model, unpacked to ``folder``."""
    if model.is_dir():
        shutil.copytree(model, folder)
    else:
        try:
            with tarfile.open(model) as archive:
                # Python 3.11 has filters from 3.11.4 on
                archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
                archive.extractall(folder)
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise SystemExit(f"{model} cannot be unpacked, a model.tar.gz is expected: {error}") from None
    found = [folder, *(path for path in folder.iterdir() if path.is_dir())]
    there = [each for each in found if (each / "model.json").is_file()]
    if not there:
        raise SystemExit(f"{model} holds no model of Tilewise: model.json is missing")
    return there[0]


def task_of(folder: Path) -> str:
    """What a model was trained for."""
    return str(json.loads((folder / "model.json").read_text(encoding="utf-8")).get("task", "detection"))


def join(detector: Path, classifier: Path, *, margin: float, score_threshold: float) -> None:
    """Put the classifier's folder into the detector's, and name it there."""
    if task_of(detector) in CLASSIFIERS or task_of(classifier) not in CLASSIFIERS:
        raise SystemExit(
            f"the first model must find objects and the second classify images, but they are for "
            f"task={task_of(detector)} and task={task_of(classifier)}"
        )
    shutil.copytree(classifier, detector / "classifier")
    path = detector / "model.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["classifier"] = {"model": "classifier", "margin": margin, "score_threshold": score_threshold}
    path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read both, and write the archive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("detector", type=Path)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--margin", type=float, default=0.1, help="around a box, as a share of its sides")
    parser.add_argument("--score-threshold", type=float, default=0.05, help="objects below it are left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        detector = unpack(arguments.detector, Path(temporary) / "detector")
        classifier = unpack(arguments.classifier, Path(temporary) / "classifier")
        join(detector, classifier, margin=arguments.margin, score_threshold=arguments.score_threshold)
        with tarfile.open(arguments.out, "w:gz") as archive:
            for path in sorted(detector.iterdir()):
                archive.add(path, path.name)
    print(f"{arguments.out}: a detector whose objects are classified")


if __name__ == "__main__":
    main()
