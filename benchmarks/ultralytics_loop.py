"""`train`'s images a second and memory beside those of ultralytics' own loop: prints a JSON line a pair.

python benchmarks/ultralytics_loop.py DATA --ultralytics PYTHON [--pairs OURS,THEIRS …] [--side 640]
    [--batch 16] [--steps 2] [--rounds 3]

DATA holds train.json (COCO) and images/; PYTHON has the package ultralytics (AGPL-3.0), which is measured
only, without weights and without mixed precision. Each side is a process of its own with one thread; both
load, learn and count their losses, in turns of a few steps. No two models have the same size, so that images
a second are also compared at equal work: multiplied by the floating-point operations that a model's forward
pass takes, which PyTorch's own counter counts for both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
PAIRS = ("yolox_tiny,yolo11n", "yolox_s,yolov8s")


def gigaflops(network: Any, side: int) -> float:
    """Of a forward pass on one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    training = network.training
    network.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side))
    network.train(training)
    return float(counter.get_total_flops() / 1e9)


def answer(target: IO[str], **figures: Any) -> None:
    """To the process that asked."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(figures | {"peak_GiB": round(peak, 2)}), file=target, flush=True)


def run_theirs(job: dict[str, Any], target: IO[str]) -> None:
    """Ultralytics' trainer, which goes on for so many batches each time that it is asked."""
    import torch
    from ultralytics import YOLO  # type: ignore[import-not-found]
    from ultralytics_peer import write_data

    torch.set_num_threads(1)
    state = {"left": 1, "start": 0.0}

    def count(trainer: Any) -> None:
        state["left"] -= 1
        if state["left"]:
            return
        answer(target, seconds=time.perf_counter() - state["start"])
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        state.update(left=int(line), start=time.perf_counter())

    with tempfile.TemporaryDirectory() as name:
        model = YOLO(f"{job['model']}.yaml")
        model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(1))
        model.add_callback("on_train_batch_end", count)
        size = {"imgsz": job["side"], "batch": job["batch"], "nbs": job["batch"]}
        quiet = {"plots": False, "verbose": False, "val": False, "project": name, "name": "run"}
        answer(target, gigaflops=gigaflops(model.model, job["side"]))
        model.train(
            data=str(write_data(job, Path(name))),
            **size,
            **quiet,
            epochs=1000,
            device="cpu",
            workers=0,
            pretrained=False,
            amp=False,
        )


def run_ours(job: dict[str, Any], target: IO[str]) -> None:
    """`train`'s loop, for so many batches each time that it is asked."""
    from training_speed import TrainSpeed, prepare, read_data

    prepare(1)
    raw = {"model_name": job["model"], "image_size": str(job["side"]), "precision": "fp32"}
    raw |= {"training_batch_size": str(job["batch"]), "num_workers": "0"}
    speed = TrainSpeed(read_data(Path(job["images"])), raw)
    answer(target, gigaflops=gigaflops(speed.detector, job["side"]))
    for line in chain(["1"], sys.stdin):
        answer(target, seconds=speed.loop(int(line))[1])


class Side:
    """A process that learns when it is asked."""

    def __init__(self, python: Path | str, job: dict[str, Any], work: Path):
        path = work / f"{job['model']}.json"
        path.write_text(json.dumps(job))
        self.log = (work / f"{job['model']}.log").open("w")
        environ = os.environ | {"OMP_NUM_THREADS": "1", "YOLO_CONFIG_DIR": str(work), "YOLO_OFFLINE": "true"}
        self.process = subprocess.Popen(
            [str(python), __file__, "--side-job", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environ | {"YOLO_AUTOINSTALL": "false"},
        )
        self.gigaflops = float(self.read()["gigaflops"])
        self.peak = self.read()["peak_GiB"]

    def read(self) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(Path(self.log.name).read_text()[-2000:])
        return dict(json.loads(line))

    def seconds(self, steps: int) -> float:
        """Of so many steps."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        figures = self.read()
        self.peak = figures["peak_GiB"]
        return float(figures["seconds"])

    def end(self) -> None:
        """No more steps."""
        self.process.kill()
        self.process.wait()
        self.log.close()


def compare(pair: str, arguments: argparse.Namespace, data: dict[str, Any], work: Path) -> dict[str, Any]:
    """A pair's line."""
    ours, theirs = pair.split(",")
    job = {"side": arguments.side, "batch": arguments.batch}
    sides = {
        ours: Side(sys.executable, job | {"model": ours, "images": str(arguments.data)}, work),
        theirs: Side(arguments.ultralytics, job | data | {"model": theirs}, work),
    }
    rounds = [
        {name: each.seconds(arguments.steps) for name, each in sides.items()} for _ in range(arguments.rounds)
    ]
    images = arguments.steps * arguments.batch
    line: dict[str, Any] = {"side": arguments.side, "batch": arguments.batch}
    for who, (name, each) in zip(("ours", "theirs"), sides.items(), strict=True):
        each.end()
        rate = images / statistics.median(seconds[name] for seconds in rounds)
        figures = {"model": name, "images_per_second": round(rate, 2), "GFLOPs": round(each.gigaflops, 2)}
        line[who] = figures | {"peak_GiB": each.peak}
    ratios = [seconds[theirs] / seconds[ours] for seconds in rounds]
    work_ratio = sides[ours].gigaflops / sides[theirs].gigaflops
    line["times_as_fast"] = round(statistics.median(ratios), 2)
    line["at_equal_work"] = round(statistics.median(ratios) * work_ratio, 2)
    line["memory"] = round(sides[ours].peak / sides[theirs].peak, 2)
    return line


def main() -> None:
    """Compare each pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--pairs", nargs="+", default=PAIRS, metavar="OURS,THEIRS")
    parser.add_argument("--ultralytics", type=Path, metavar="PYTHON", help="one that has the package")
    parser.add_argument("--side", type=int, default=640, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side-job", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side_job:
        target = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what the sides print goes to their logs
        job = json.loads(arguments.side_job.read_text())
        (run_theirs if "data" in job else run_ours)(job, target)
        return
    if not (arguments.data and arguments.ultralytics):
        parser.error("name DATA and --ultralytics")
    from beside_peers import write_yolo_set

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        classes = write_yolo_set(arguments.data, work / "data", 0, sliced=False)
        data = {"data": str(work / "data"), "classes": classes}
        for pair in arguments.pairs:
            print(json.dumps(compare(pair, arguments, data, work)), flush=True)


if __name__ == "__main__":
    main()
