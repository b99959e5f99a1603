"""Jobs of every kind through both versions of the SageMaker Python SDK, one after the other: see run.sh.

run.py IMAGE WORK [NAME …]
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from image_container import HYPERPARAMETERS
from labelled_images import class_folders
from masked_scenes import write_scenes
from sdk_local_mode import ROOT, SDK_PYTHON, run_example

OUTPUT = Path(__file__).with_name("output.md")
SHOWN = re.compile(
    r"training with \d+ processes on each of 2 hosts.*|(?:continues|goes on|learns) from .*"
    r"|train distillation.*"
    r"|validation \w+ <score>=.*|completed 100 % of epochs|(?:fit|fit again|predict|transform): .*"
)
"""What is kept of a log, of each such line the last one."""


@dataclass(frozen=True)
class Job:
    """A job of Local Mode: train, deploy, predict, transform.

    Attributes:
        write: its channels into a folder, which has the models of earlier jobs beside it.
        hyperparameters: of it.
        options: of the example.
        trains: containers that train.

    """

    write: Callable[[Path], None]
    hyperparameters: dict[str, str]
    options: tuple[str, ...] = ()
    trains: int = 1


def boxes(data: Path) -> None:
    """COCO beside the images."""
    _scenes(data, masks=False)


def masks(data: Path) -> None:
    """COCO with masks."""
    _scenes(data, masks=True)


def four_channels(data: Path) -> None:
    """Images and a JSON file each, in channels of their own, as the built-in algorithm has them."""
    boxes(data)
    for channel in ("train", "validation"):
        folder, made = data / channel, data / "made"
        command = [sys.executable, "-m", "tilewise", "convert", str(folder), str(made), "--to", "image-json"]
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(folder)
        (made / "images").rename(folder)
        (made / "annotations").rename(data / f"{channel}_annotation")
        made.rmdir()


def with_teacher(data: Path) -> None:
    """A channel `teacher` with the model of the first job."""
    boxes(data)
    (data / "teacher").mkdir()
    archive = next((data.parents[1] / "two hosts, then one more epoch" / "out").rglob("model.tar.gz"))
    shutil.copy(archive, data / "teacher")


def folders_of_classes(data: Path) -> None:
    """A folder of images for each class."""
    class_folders(data / "train", 8)
    class_folders(data / "validation", 3, seed=50)


def _scenes(data: Path, *, masks: bool) -> None:
    write_scenes(data / "train", 8, masks=masks)
    write_scenes(data / "validation", 5, masks=masks)


CLASSIFIER = {
    "task": "image_classification",
    "model_name": "resnet18",
    "training_crop_size": "32",
    "validation_crop_size": "32",
    "validation_resize_size": "40",
    "training_batch_size": "8",
    "number_of_epochs": "1",
    "use_pretrained_model": "0",
}
SEGMENTER = HYPERPARAMETERS | {
    "task": "image_instance_segmentation",
    "model_name": "maskyolox_nano",
    "box_score_threshold": "0",
}
JOBS = {
    "two hosts, then one more epoch": Job(boxes, HYPERPARAMETERS, ("--instances=2", "--more-epochs=1"), 3),
    "four channels": Job(four_channels, HYPERPARAMETERS),
    "a teacher": Job(with_teacher, HYPERPARAMETERS),
    "masks": Job(masks, SEGMENTER),
    "classification": Job(folders_of_classes, CLASSIFIER),
}
NOTEBOOK = "the notebook, against moto"
"""ModelTrainer or Estimator, ModelBuilder, an endpoint, and a transform job, on AWS."""


def run_job(version: int, name: str, image: str, folder: Path) -> dict[str, Any]:
    """Run a job in Local Mode; whether all went well, and what is shown of it."""
    job = JOBS[name]
    data, pictures = folder / "data", folder / "pictures"
    job.write(data)
    pictures.mkdir()
    for picture in sorted((data / "validation").rglob("*.png"))[:4]:
        shutil.copy(picture, pictures / f"{picture.parent.name}-{picture.name}")
    pairs = [f"{key}={value}" for key, value in job.hyperparameters.items()]
    ran = run_example(
        version, image, data, pictures, folder / "out", os.environ["DOCKER_HOST"], *pairs, *job.options
    )
    (folder / "log").write_text(ran.printed)
    expected = ["0 serve"] * 2 + ["0 train"] * job.trains
    whole = "transform: 4 answers, " in ran.printed and not ran.printed.count("transform: 4 answers, 0 ")
    lines = {line.split()[0]: line for line in SHOWN.findall(ran.printed.replace(str(folder), "WORK"))}
    shown = [*lines.values(), f"exit codes of the containers: {', '.join(ran.containers)}"]
    return {"passed": ran.code == 0 and ran.containers == expected and whole, "shown": shown}


def run_notebook(version: int, folder: Path) -> dict[str, Any]:
    """Run a version's notebook, cell by cell, with moto in AWS's place."""
    test = "tests/examples/test_notebook.py::test_notebook__uploads_trains_deploys_and_draws_what_is_found"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"{test}[{version}]"],
        env=os.environ | {"TILEWISE_NOTEBOOKS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    (folder / "log").write_text(done.stdout + done.stderr)
    last = re.sub(r" in [\d.]+s.*", "", done.stdout.strip().splitlines()[-1])
    return {"passed": done.returncode == 0 and "1 passed" in last, "shown": [last.strip("= ")]}


def main() -> int:
    """Run what has not run with this image, and write the table; 1 where something failed."""
    image, work, *chosen = sys.argv[1], Path(sys.argv[2]).resolve(), *sys.argv[3:]
    names = [*JOBS, NOTEBOOK]
    if unknown := set(chosen) - set(names):
        print(f"no job {', '.join(sorted(unknown))}: there are {'; '.join(names)}", file=sys.stderr)
        return 2
    digest = _output("docker", "image", "inspect", image, "--format", "{{.Id}}")
    failed = False
    for version in (3, 2):
        for name in names:
            folder = work / f"version {version}" / name
            result = folder / "result.json"
            known = json.loads(result.read_text()) if result.is_file() else {}
            if (chosen and name not in chosen) or (known.get("passed") and known["image"] == digest):
                continue
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            started = time.monotonic()
            if name == NOTEBOOK:
                found = run_notebook(version, folder)
            else:
                found = run_job(version, name, image, folder)
            found |= {"image": digest, "seconds": round(time.monotonic() - started)}
            result.write_text(json.dumps(found, indent=1))
            failed |= not found["passed"]
            state = "passed" if found["passed"] else f"FAILED, see {folder / 'log'}"
            print(f"SDK {version}: {name}: {state} after {found['seconds']} s", flush=True)
    OUTPUT.write_text(report(work, names))
    return int(failed)


def report(work: Path, names: list[str]) -> str:
    """What ran, as Markdown."""
    text = [
        "# What the SageMaker Python SDK's clients printed",
        "",
        f"Written by `bash tests/clients/run.sh` on {date.today()}.",
        "Data, models and epochs are as small as they can be, so that the figures say nothing.",
        "`WORK` is the folder of the job.",
    ]
    for version in (3, 2):
        code = "from importlib.metadata import version; print(version('sagemaker'))"
        text += ["", f"## Version {_output(str(SDK_PYTHON[version]), '-c', code)}"]
        for name in names:
            result = work / f"version {version}" / name / "result.json"
            text += ["", f"### {name.capitalize()}", ""]
            if not result.is_file():
                text += ["Not run."]
                continue
            found = json.loads(result.read_text())
            text += [
                f"{'Passed' if found['passed'] else 'Failed'} after {found['seconds']} s.",
                "",
                "```text",
            ]
            text += [*found["shown"], "```"]
    return "\n".join(text) + "\n"


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
