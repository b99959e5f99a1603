"""Lay out a folder as SageMaker lays out /opt/ml for a training job.

Its data are images and COCO JSON, or folders `train` and `validation` in any form that a channel may have.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

TRAIN_NAMES = ("train.json", "instances_train.json", "_annotations.coco.json")
VALIDATION_NAMES = ("val.json", "validation.json", "valid.json", "instances_val.json")


def find_coco_files(data: Path) -> tuple[Path, Path | None]:
    """The training and the validation file of a data set: ``DIR/train.json`` and ``DIR/val.json``.

    A single JSON file of another name trains, too.

    Raises:
        FileNotFoundError: there is no training file.

    """
    files = {path.name: path for path in [*data.glob("annotations/*.json"), *data.glob("*.json")]}
    validation = next((files.pop(name) for name in VALIDATION_NAMES if name in files), None)
    train = next((files[name] for name in TRAIN_NAMES if name in files), None)
    if train is None and len(files) == 1:
        train = next(iter(files.values()))
    if train is None:
        raise FileNotFoundError(
            f"{data} holds no train.json (COCO JSON) beside its images, and no folder train in another form"
        )
    return train, validation


def lay_out_channel(annotations: Path, data: Path, channel: Path) -> None:
    """Copy a COCO file and the images that it names into a channel's folder.

    Images that are not there are left for the job to report.

    Raises:
        ValueError: the file is not COCO JSON, or names a file outside the folder.

    """
    channel.mkdir(parents=True)
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        names = [str(image["file_name"]) for image in content["images"]]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{annotations.name} is not COCO JSON: {error!r}") from None
    shutil.copyfile(annotations, channel / "annotations.json")
    for name in names:
        target = (channel / "images" / name).resolve()
        if not target.is_relative_to((channel / "images").resolve()):
            raise ValueError(f"{annotations.name}: file_name {name!r} leads out of the folder")
        found = [folder / name for folder in (data / "images", data) if (folder / name).is_file()]
        if found:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found[0], target)


def find_channels(data: Path) -> dict[str, Path]:
    """The folders of a data set that are channels as they are: ``DIR/train``, ``DIR/validation`` or so."""
    names = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
    found = {
        channel: [data / name for name in each if (data / name).is_dir()] for channel, each in names.items()
    }
    return {channel: folders[0] for channel, folders in found.items() if folders}


def lay_out_job(data: Path, base: Path, hyperparameters: dict[str, str]) -> None:
    """Make ``base`` look like /opt/ml at the start of a job on one host.

    Args:
        data: images and COCO JSON, see :func:`find_coco_files`; else channels, see :func:`find_channels`.
        base: made anew, where it is what an earlier call made.
        hyperparameters: as a CreateTrainingJob request holds them, all strings.

    Raises:
        FileNotFoundError: there is no training file.
        ValueError: ``base`` holds something else, or the COCO JSON names a file outside the folder.

    """
    channels, inputs = find_channels(data), base / "input" / "data"
    try:
        train, validation = find_coco_files(data)
    except FileNotFoundError:
        if "train" not in channels:
            raise
        _remove(base, data)
        for name, ready in channels.items():
            shutil.copytree(ready, inputs / name)
    else:
        _remove(base, data)
        channels = {"train": train} | ({"validation": validation} if validation else {})
        for name, coco in channels.items():
            lay_out_channel(coco, data, inputs / name)
    for folder in ("model", "output/data", "input/config"):
        (base / folder).mkdir(parents=True)
    facts = {
        "TrainingInputMode": "File",
        "S3DistributionType": "FullyReplicated",
        "RecordWrapperType": "None",
    }
    write_config(base, "inputdataconfig", dict.fromkeys(channels, facts))
    write_config(base, "hyperparameters", hyperparameters)
    write_config(
        base,
        "resourceconfig",
        {
            "current_host": "algo-1",
            "current_instance_type": "local",
            "hosts": ["algo-1"],
            "network_interface_name": "eth0",
        },
    )


def _remove(base: Path, data: Path) -> None:
    if data.resolve().is_relative_to(base.resolve()):
        raise ValueError(f"{base} holds the data itself: name another folder")
    if base.is_dir() and any(base.iterdir()) and not (base / "input" / "config").is_dir():
        raise ValueError(f"{base} holds files that are not a job's: name another folder, or empty it")
    if base.exists():
        shutil.rmtree(base)


def write_config(base: Path, name: str, content: dict[str, Any]) -> None:
    """Write a file of a job's ``/opt/ml/input/config``."""
    (base / "input" / "config" / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def main() -> int:
    """``lay_out.py DATA BASE [name=value …]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "data", type=Path, help="folder with train.json, val.json and images/, or train/ and validation/"
    )
    parser.add_argument("base", type=Path, help="the folder that becomes /opt/ml")
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    arguments = parser.parse_args()
    for pair in arguments.hyperparameters:
        if "=" not in pair:
            parser.error(f"{pair!r} is not name=value")
    pairs = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    try:
        lay_out_job(arguments.data, arguments.base, pairs)
    except (OSError, ValueError) as error:
        print(f"lay_out.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
