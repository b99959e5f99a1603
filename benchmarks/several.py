"""One process, two processes, and two hosts on the same batches: prints JSON.

python benchmarks/several.py DATA [--images 48] [--epochs 4] [name=value …]

DATA holds train.json (COCO) and images/. The batch of all processes together is 4. The hosts are network
namespaces of this machine (root): what is measured is the cost of going together, not a network's speed.
Training processes compute with one thread each, and the single process also with two.
SSD on VGG-16 is the model: it has no batch normalisation, whose statistics would be each process's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test")]

from lay_out import find_coco_files, lay_out_job  # noqa: E402
from two_hosts import HOSTS, NoNetworks, two_hosts  # noqa: E402

BATCH = 4
HYPERPARAMETERS = {
    "model_name": "ssd_vgg16",
    "precision": "fp32",
    "image_size": "300",
    "learning_rate": "0.002",
    "warmup_cosine_lr_warmup_epochs": "1",
    "validation_metric_type": "coco",
    "box_score_threshold": "0.01",
    "use_pretrained_model": "0",
    "early_stopping": "0",
    "num_workers": "0",
}


def first_images(data: Path, count: int, folder: Path) -> Path:
    """A data set of some of the training images, which also validate."""
    content = json.loads(find_coco_files(data)[0].read_text())
    content["images"] = content["images"][:count]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    folder.mkdir()
    (folder / "images").symlink_to((data / "images").resolve())
    (folder / "train.json").write_text(json.dumps(content))
    few = sorted(kept)[: count // 4]
    content["images"] = [image for image in content["images"] if image["id"] in few]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in few]
    (folder / "val.json").write_text(json.dumps(content))
    return folder


def run(
    data: Path, folder: Path, chosen: dict[str, str], hosts: int, processes: int, threads: int
) -> dict[str, Any]:
    """Run one job; its figures."""
    share = BATCH // (hosts * processes)
    hyperparameters = HYPERPARAMETERS | chosen | {"training_batch_size": str(share)}
    environ = os.environ | {"TILEWISE_PROCESSES": str(processes), "OMP_NUM_THREADS": str(threads)}
    names = HOSTS[:hosts]
    with ExitStack() as stack:
        commands = stack.enter_context(two_hosts()) if hosts > 1 else [[]]
        started = []
        for name, command in zip(names, commands, strict=True):
            base = folder / name
            lay_out_job(data, base, hyperparameters)
            resources = {"current_host": name, "hosts": list(names), "network_interface_name": "eth0"}
            (base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(resources))
            train = [*command, sys.executable, str(ROOT / "train")]
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            variables = environ | {"SAGEMAKER_BASE_DIR": str(base)}
            started.append(subprocess.Popen(train, env=variables, stdout=log, stderr=subprocess.STDOUT))
        if any([process.wait() for process in started]):
            raise SystemExit("\n".join((folder / f"{name}.log").read_text() for name in names))
    history = json.loads((folder / HOSTS[0] / "output" / "data" / "metrics.json").read_text())["epochs"]
    later = history[1:]  # the first one also sets up
    return {
        "hosts": hosts,
        "processes_each": processes,
        "threads_each": threads,
        "batch_each": share,
        "loss": [round(sum(epoch["losses"].values()), 5) for epoch in history],
        "AP50": [round(epoch["validation"]["AP50"], 4) for epoch in history],
        "images_per_second": round(
            sum(epoch["records"] for epoch in later) / sum(epoch["seconds"] for epoch in later), 3
        ),
    }


def main() -> None:
    """Run the four and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("hyperparameters", nargs="*", metavar="name=value")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_intermixed_args()
    chosen = dict(pair.split("=", 1) for pair in arguments.hyperparameters)
    chosen["number_of_epochs"] = str(arguments.epochs)
    ways = {
        "one": (1, 1, 1),
        "one, two threads": (1, 1, 2),
        "two processes": (1, 2, 1),
        "two hosts": (2, 1, 1),
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = first_images(arguments.data, arguments.images, Path(folder) / "data")
        for number, (name, (hosts, processes, threads)) in enumerate(ways.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            try:
                found[name] = run(data, place, chosen, hosts, processes, threads)
            except NoNetworks as reason:
                found[name] = f"left out: {reason}"
            print(name, json.dumps(found[name]), file=sys.stderr)
    for figures in found.values():
        if isinstance(figures, dict):
            processes = figures["hosts"] * figures["processes_each"]
            alone = found["one"]["images_per_second"]
            figures["efficiency"] = round(figures["images_per_second"] / (processes * alone), 3)
    print(json.dumps({"data": arguments.data.name, "images": arguments.images, "ways": found}, indent=2))


if __name__ == "__main__":
    main()
