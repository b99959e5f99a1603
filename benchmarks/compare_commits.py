"""Short trainings at two commits, to the bit: prints a table; exits with 1 where one differs that should not.

python benchmarks/compare_commits.py DATA BEFORE [AFTER] [--jobs JOB …] [--expect JOB …] [--runs FILE]

DATA holds train.json, val.json (COCO) and images/: the first 24 images train (8 where they are seen in
tiles), a third as many validate. BEFORE and AFTER are folders of checkouts, or revisions of this repository.
Each job is a process of its own, in one thread: the ``train`` of that checkout, started as SageMaker does.
Two runs are equal when their weights files have the same SHA-256 and their ``metrics.json`` the same content,
but for times. With BEFORE alone its jobs run, and ``--runs`` keeps what they gave.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test"), str(ROOT / "tests")]

from lay_out import find_coco_files, lay_out_job, write_config  # noqa: E402
from pipe_platform import PipePlatform, image_record  # noqa: E402

TIMEOUT = 1800.0
"""Seconds for a job."""

IMAGES, TILED_IMAGES = 24, 8
"""Each image has seven views where there are 3x2 tiles."""

BATCH = 4
EPOCHS = 2
PASSES = 2 * EPOCHS + 2
"""More than a job reads from a pipe."""

CODE = ("container", "train")
"""What a job runs, in a checkout."""

COMMON = {
    "number_of_epochs": str(EPOCHS),
    "precision": "fp32",
    "seed": "0",
    "use_pretrained_model": "0",
    "num_workers": "0",
    "training_batch_size": str(BATCH),
    "validation_batch_size": str(BATCH),
    "learning_rate": "0.001",
    "warmup_cosine_lr_warmup_epochs": "1",
    "box_score_threshold": "0.01",
    "early_stopping": "0",
    "validation_metric_type": "coco_voc",
}
SQUARE = {"image_size": "320"}
SIDES = {"min_size": "320", "max_size": "427"}
SSDLITE = {"model_name": "ssdlite_mobilenet_v3_large"} | SQUARE
FAMILIES = {
    "ssdlite": SSDLITE,
    "ssd_vgg16": {"model_name": "ssd_vgg16"} | SQUARE,
    "fasterrcnn": {"model_name": "fasterrcnn_resnet18_fpn"} | SIDES,
    "retinanet": {"model_name": "retinanet_resnet50_fpn"} | SIDES,
    "fcos": {"model_name": "fcos_resnet50_fpn"} | SIDES,
    "yolox": {"model_name": "yolox_tiny"} | SQUARE,
    "gfl": {"model_name": "gfl_resnet18_fpn"} | SIDES,
}
TILES = {"tile_grid_size": "3x2", "evaluation_frequency": str(EPOCHS)}
SNIPER = {"training_views": "sniper", "pyramid_scales": "1,2", "negative_views": "false_alarms"}


@dataclass(frozen=True)
class Job:
    """A training job.

    Attributes:
        hyperparameters: what differs from :data:`COMMON`.
        images: that train; a third as many validate.
        piped: whether its channels are streams.
        processes: how many train together.
        resumed: whether it is stopped after its first checkpoint, and started again.

    """

    hyperparameters: dict[str, str]
    images: int = IMAGES
    piped: bool = False
    processes: int = 1
    resumed: bool = False


JOBS = {
    **{name: Job(model) for name, model in FAMILIES.items()},
    **{f"{name}_tiles": Job(model | TILES, TILED_IMAGES) for name, model in FAMILIES.items()},
    "ssdlite_sniper": Job(SSDLITE | SNIPER, TILED_IMAGES),
    "ssdlite_pipe": Job(SSDLITE, piped=True),
    "ssdlite_processes": Job(SSDLITE | {"training_batch_size": str(BATCH // 2)}, processes=2),
    "ssdlite_resumed": Job(SSDLITE | {"optimizer": "adamw", "ema_decay": "0.9"}, resumed=True),
    "ssdlite_bf16": Job(SSDLITE | {"precision": "bf16", "num_workers": "1"}),
}


@dataclass(frozen=True)
class Tree:
    """A checkout.

    Attributes:
        folder: where it is.
        commit: its hash.
        changed: whether the code in the folder is not the commit's.

    """

    folder: Path
    commit: str
    changed: bool

    @property
    def label(self) -> str:
        """What the table calls it."""
        return self.commit[:7] + (", changed" if self.changed else "")


def git(folder: Path, *arguments: str) -> str:
    """What a git command prints."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def checked_out(name: str) -> Iterator[Tree]:
    """The checkout that a folder is, or one that is made of a revision and removed afterwards."""
    if Path(name).is_dir():
        folder = Path(name).resolve()
        changed = bool(git(folder, "status", "--porcelain", "--", *CODE))
        yield Tree(folder, git(folder, "rev-parse", "HEAD"), changed)
        return
    commit = git(ROOT, "rev-parse", "--verify", f"{name}^{{commit}}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "checkout"
        git(ROOT, "worktree", "add", "--detach", str(folder), commit)
        try:
            yield Tree(folder, commit, changed=False)
        finally:
            git(ROOT, "worktree", "remove", "--force", str(folder))


def first_images(data: Path, folder: Path, count: int) -> None:
    """Make a data set of the first images of another one: so many train, a third as many validate."""
    folder.mkdir()
    (folder / "images").symlink_to((data / "images").resolve())
    training, validation = find_coco_files(data)
    assert validation is not None, f"{data} holds no val.json"
    for path, name, most in ((training, "train.json", count), (validation, "val.json", count // 3)):
        content = json.loads(path.read_text(encoding="utf-8"))
        content["images"] = content["images"][:most]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def image_records(annotations: Path, images: Path) -> bytes:
    """A COCO file and its images as one stream of RecordIO."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    labels = {one["id"]: label for label, one in enumerate(content["categories"])}
    records = []
    for image in content["images"]:
        width, height = image["width"], image["height"]
        label = [4.0, 5.0, width, height]
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, w, h = one["bbox"]
                sides = x / width, y / height, (x + w) / width, (y + h) / height
                label += [labels[one["category_id"]], *sides]
        records.append(image_record(label, (images / image["file_name"]).read_bytes(), image["id"]))
    return b"".join(records)


def lay_out(data: Path, base: Path, job: Job) -> dict[Path, bytes]:
    """Make a job's folders.

    Returns:
        What is to be streamed, by the path of the channel.

    """
    hyperparameters = COMMON | job.hyperparameters
    if job.piped:
        categories = json.loads((data / "train.json").read_text(encoding="utf-8"))["categories"]
        hyperparameters["num_classes"] = str(len(categories))
        hyperparameters["num_training_samples"] = str(job.images)
    lay_out_job(data, base, hyperparameters)
    if job.resumed:
        (base / "checkpoints").mkdir()
    if not job.piped:
        return {}
    facts = {"TrainingInputMode": "Pipe", "ContentType": "application/x-recordio"}
    write_config(base, "inputdataconfig", {"train": facts, "validation": facts})
    channels = base / "input" / "data"
    streams = {}
    for channel, coco in (("train", "train.json"), ("validation", "val.json")):
        streams[channels / channel] = image_records(data / coco, data / "images")
        (channels / channel).rename(base / channel)  # out of the job's sight
    return streams


@contextmanager
def started(tree: Tree, base: Path, job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """``train`` of a checkout on a job's folders, killed at the end; its log goes to ``<base>/log``."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith("TILEWISE_")
    } | {
        "SAGEMAKER_BASE_DIR": str(base),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONUNBUFFERED": "1",
    }
    if job.processes > 1:
        environ["TILEWISE_PROCESSES"] = str(job.processes)
    with (base / "log").open("ab") as log:
        command = [sys.executable, str(tree.folder / "train")]
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=base)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def log_of(base: Path) -> str:
    """What a job has said."""
    return (base / "log").read_text(encoding="utf-8", errors="replace")


def finish(process: subprocess.Popen[bytes], base: Path) -> None:
    """Wait for a job's end.

    Raises:
        SystemExit: it failed, or took too long.

    """
    try:
        code = process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        code = None
    if code != 0:
        how = f"exit code {code}" if code is not None else f"not over after {TIMEOUT:.0f} s"
        sys.exit(f"{log_of(base)[-4000:]}\na job failed: {how}")


def stop_in_the_middle(process: subprocess.Popen[bytes], base: Path) -> None:
    """Let a job stop once its first checkpoint is written; where in the second epoch does not matter."""
    while process.poll() is None and "INFO checkpoint: " not in log_of(base):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)


def train_once(tree: Tree, data: Path, job: Job) -> dict[str, Any]:
    """Run one job; what it leaves, without times."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        base, images = Path(folder) / "ml", Path(folder) / "data"
        first_images(data, images, job.images)
        for channel, content in lay_out(images, base, job).items():
            stack.enter_context(PipePlatform(channel, [content] * PASSES))
        begin = time.monotonic()
        for stops in (True, False) if job.resumed else (False,):
            with started(tree, base, job) as process:
                if stops:
                    stop_in_the_middle(process, base)
                finish(process, base)
        minutes = (time.monotonic() - begin) / 60
        resumed = re.search(r"resumed from \S+: (in epoch .*)", log_of(base))
        if job.resumed and not resumed:
            sys.exit(f"{log_of(base)[-4000:]}\nthe job was not resumed in the middle of an epoch")
        model = base / "model"
        weights = model / json.loads((model / "model.json").read_text(encoding="utf-8"))["weights"]
        metrics = without_times(json.loads((base / "output" / "data" / "metrics.json").read_text("utf-8")))
        return {
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "metrics": hashlib.sha256(json.dumps(metrics, sort_keys=True).encode()).hexdigest(),
            "loss": [sum(epoch["losses"].values()) for epoch in metrics["epochs"]],
            "resumed": resumed[1] if resumed else None,
            "minutes": round(minutes, 2),
            "figures": metrics,
        }


def without_times(content: Any) -> Any:
    """JSON without the entries that say how long something took."""
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if not name.endswith("seconds")}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def flat(content: Any, name: str = "") -> dict[str, Any]:
    """The values of nested JSON by their path, as in ``epochs.0.losses.classification``."""
    if not isinstance(content, dict | list):
        return {name: content}
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    values: dict[str, Any] = {}
    for key, value in entries:
        values |= flat(value, f"{name}.{key}" if name else str(key))
    return values


def machine() -> str:
    """What the bits of a result depend on beside the code: the processor and PyTorch."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return f"{processor[1] if processor else 'unknown'}, PyTorch {version('torch')}"


def result_of(tree: Tree, name: str, data: Path, store: Path | None) -> dict[str, Any]:
    """What a job leaves, as ``store`` has it, or from running it; then ``store`` keeps it.

    Of a checkout that is changed nothing is kept.

    Args:
        tree: the checkout.
        name: one of :data:`JOBS`.
        data: holds train.json, val.json and images/.
        store: a file of JSON lines.

    """
    job = JOBS[name]
    key = {
        "commit": tree.commit,
        "job": name,
        "data": data.resolve().name,
        "images": job.images,
        "machine": machine(),
        "hyperparameters": COMMON | job.hyperparameters,
    }
    if tree.changed:
        store = None
    lines = store.read_text(encoding="utf-8").splitlines() if store and store.is_file() else []
    for kept in map(json.loads, lines):
        if kept["key"] == key:
            return dict(kept["result"])
    print(f"{name} at {tree.label} …", file=sys.stderr, flush=True)
    result = train_once(tree, data, job)
    if store:
        line = json.dumps({"key": key, "result": result}) + "\n"
        with store.open("ab", buffering=0) as file:  # at once: another comparison may keep its own there
            file.write(line.encode())
    return result


def describe(results: list[dict[str, Any]]) -> str:
    """The cells of a table's row: weights, metrics, and loss by epoch."""

    def digests(of: str) -> str:
        found = dict.fromkeys(result[of][:12] for result in results)
        return " → ".join(found) if len(results) == 1 or len(found) > 1 else f"equal ({next(iter(found))})"

    losses = dict.fromkeys(", ".join(f"{loss:.6f}" for loss in result["loss"]) for result in results)
    values = [flat(result["figures"]) for result in results]
    names = dict.fromkeys(name for each in values for name in each)
    absent = object()
    other = [name for name in names if len({str(each.get(name, absent)) for each in values}) > 1]
    more = f" and {len(other) - 4} more" if len(other) > 4 else ""
    differing = f": {', '.join(other[:4])}{more}" if other else ""
    return f"{digests('weights')} | {digests('metrics')}{differing} | {' → '.join(losses)}"


def main() -> int:
    """Run the jobs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?")
    for option, meaning in (
        ("--jobs", f"only these, of: {', '.join(JOBS)}"),
        ("--expect", "these may differ"),
    ):
        parser.add_argument(option, nargs="+", metavar="JOB", choices=list(JOBS), default=[], help=meaning)
    parser.add_argument("--runs", type=Path, help="keeps each job's result; what it has is not run again")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and take the job along
    unexpected = []
    with ExitStack() as stack:
        trees = [
            stack.enter_context(checked_out(name)) for name in (arguments.before, arguments.after) if name
        ]
        print(f"| {' → '.join(tree.label for tree in trees)} | | weights | metrics | loss by epoch |")
        print("|---|---|---|---|---|")
        for name in arguments.jobs or JOBS:
            results = [result_of(tree, name, arguments.data, arguments.runs) for tree in trees]
            differs = len({(result["weights"], result["metrics"]) for result in results}) > 1
            verdict = "equal" if len(results) > 1 else ""
            if differs:
                verdict = "differs, as expected" if name in arguments.expect else "DIFFERS"
                unexpected += [name] if name not in arguments.expect else []
            print(f"| {name} | {verdict} | {describe(results)} |", flush=True)
    if unexpected:
        print(f"{len(unexpected)} jobs differ: {', '.join(unexpected)}", file=sys.stderr)
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
