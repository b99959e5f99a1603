"""Whole jobs on a GPU, several side by side: prints a JSON line for each check; exits with 1 where one fails.

python benchmarks/gpu_check.py DATA OUT [CHECK …] [--parallel 6] [--epochs 2]

DATA holds train.json, val.json (COCO) and images/; OUT keeps each job's log. A check is a training job with
other hyperparameters. Its saved model then predicts the validation images, on the GPU and on the CPU, some
also behind an endpoint: all must give the AP that training logged, or nearly so. Some jobs must give the same
weights twice and when resumed, one must be refused in a sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "local_test")]

from lay_out import lay_out_job  # noqa: E402
from wait_for_ping import wait_for_ping  # noqa: E402

TIMEOUT = 400.0
"""Seconds for a job; to compile takes two minutes where others run beside it."""

COMMON = {
    "use_pretrained_model": "0",
    "training_batch_size": "8",
    "validation_batch_size": "8",
    "optimizer": "adamw",
    "learning_rate": "0.0005",
    "warmup_cosine_lr_warmup_epochs": "1",
    "box_score_threshold": "0.01",
    "early_stopping": "0",
    "validation_metric_type": "coco",
    "ema_decay": "0.9",
}
SQUARE = {"image_size": "320"}
SIDES = {"min_size": "320", "max_size": "427"}
TINY = {"model_name": "yolox_tiny"} | SQUARE
RCNN = {"model_name": "fasterrcnn_resnet18_fpn"} | SIDES

JOBS: dict[str, dict[str, str]] = {
    "ssd_vgg16": {"model_name": "ssd_vgg16", "image_size": "300"},
    "ssdlite": {"model_name": "ssdlite_mobilenet_v3_large"} | SQUARE,
    "fasterrcnn": RCNN,
    "retinanet": {"model_name": "retinanet_resnet50_fpn"} | SIDES,
    "fcos": {"model_name": "fcos_resnet50_fpn", "stride_4_level": "1"} | SIDES,
    "yolox": TINY,
    "gfl": {"model_name": "gfl_resnet18_fpn"} | SIDES,
    "tiles": TINY | {"tile_grid_size": "3x2"},
    "tiles_fasterrcnn": RCNN | {"tile_grid_size": "auto"},
    "sniper": TINY | {"training_views": "sniper", "pyramid_scales": "1,2"},
    "sniper_false_alarms": TINY
    | {"training_views": "sniper", "pyramid_scales": "1,2", "negative_views": "false_alarms"},
    "sniper_of_whole_images": TINY | {"training_views": "sniper", "negative_views": "false_alarms"},
    "multi_scale": TINY | {"multi_scale": "1"},
    "fp16": TINY | {"precision": "fp16"},
    "fp16_fasterrcnn": RCNN | {"precision": "fp16"},
    "fp32": TINY | {"precision": "fp32"},
    "compile": TINY | {"compile": "1"},
    "compile_ssd": {"model_name": "ssd_resnet50", "image_size": "300", "compile": "1"},
    "auto_batch": TINY | {"training_batch_size": "auto"},
    "auto_batch_fasterrcnn": RCNN | {"training_batch_size": "auto"},
    "builtin": {
        "base_network": "resnet-50",
        "num_classes": "3",
        "num_training_samples": "138",
        "mini_batch_size": "16",
        "epochs": "2",
        "use_pretrained_model": "0",
        "image_shape": "300",
    },
}
SERVED = {"tiles", "fasterrcnn"}
DETERMINISTIC = {
    "deterministic": TINY | {"deterministic": "1"},
    "deterministic_fasterrcnn": RCNN | {"deterministic": "1"},
}
REFUSED = {"too_large": {"model_name": "yolox_x", "image_size": "1536", "training_batch_size": "100"}}


def start(base: Path, log: Path) -> subprocess.Popen[bytes]:
    """``train`` on a laid out folder, its output appended to ``log``."""
    environ = os.environ | {"SAGEMAKER_BASE_DIR": str(base), "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as file:
        command = [sys.executable, str(ROOT / "train")]
        return subprocess.Popen(command, env=environ, stdout=file, stderr=file)


def wait(process: subprocess.Popen[bytes]) -> int:
    """A job's exit code; it is killed where it takes too long."""
    try:
        return process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def evaluate(base: Path, device: str = "cpu", endpoint: Sequence[str] = ()) -> dict[str, Any]:
    """What the saved model, or an endpoint, reaches on the validation images, on "cuda" or "cpu"."""
    channel = base / "input" / "data" / "validation"
    command = [sys.executable, "-m", "tilewise", "evaluate", f"{channel}/annotations.json", str(channel)]
    command += [*endpoint, "--model", str(base / "model")]
    path = filter(None, [str(ROOT / "container"), os.environ.get("PYTHONPATH")])
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    if device == "cpu":
        environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    run = subprocess.run(command, env=environ, capture_output=True, text=True)
    if run.returncode:
        return {"error": run.stderr[-2000:]}
    return dict(json.loads(run.stdout))


def evaluate_endpoint(base: Path, log: Path) -> dict[str, Any]:
    """What the endpoint's answers reach, with its model on the GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = os.environ | {"SAGEMAKER_BASE_DIR": str(base), "SAGEMAKER_BIND_TO_PORT": str(port)}
    with log.open("ab") as file:
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "serve")], env=environ, stdout=file, stderr=file
        )
    try:
        url = f"http://127.0.0.1:{port}"
        if not wait_for_ping(url, server.pid):
            return {"error": log.read_text(errors="replace")[-1500:]}
        return evaluate(base, endpoint=["--endpoint", url])
    finally:
        server.terminate()
        server.wait()


def facts_of(log: Path) -> dict[str, Any]:
    """What a job's log says of precision and speed."""
    said = log.read_text(errors="replace")
    precision = re.findall(r"training in (\w+)", said)
    speed = re.findall(r"train throughput=(\S+)", said)
    batch = re.search(r"\w*batch_size=auto: .*", said)
    warnings = sorted(set(re.findall(r"(?:WARNING|Warning).*", said)))
    return {
        "precision": precision[-1] if precision else None,
        "images_per_second": [float(each) for each in speed],
        **({"auto": batch[0]} if batch else {}),
        **({"warnings": [each[:200] for each in warnings[:5]]} if warnings else {}),
    }


def check_job(data: Path, out: Path, name: str, hyperparameters: dict[str, str]) -> dict[str, Any]:
    """Train, and compare the AP that was logged with that of the saved model on both devices."""
    with tempfile.TemporaryDirectory() as folder:
        base, log = Path(folder) / "ml", out / f"{name}.log"
        lay_out_job(data, base, hyperparameters)
        code = wait(start(base, log))
        facts = facts_of(log)
        if code:
            return {"ok": False, "exit_code": code, "said": log.read_text(errors="replace")[-1500:], **facts}
        logged = json.loads((base / "model" / "model.json").read_text())["metrics"]
        aps = {device: evaluate(base, device) for device in ("cuda", "cpu")}
        if any("error" in each for each in aps.values()):
            return {"ok": False, "evaluate": aps, **facts}
        if name in SERVED:
            aps["endpoint"] = evaluate_endpoint(base, out / f"{name}_serve.log")
        figures = {device: round(each["AP"], 5) for device, each in aps.items()}
        # Convolutions are in TF32 on a GPU, where the model was validated, and in float32 on the CPU.
        limits = {"cuda": 0.002, "endpoint": 0.002, "cpu": 0.01}
        equal = all(abs(each["AP"] - logged["AP"]) < limits[where] for where, each in aps.items())
        return {"ok": equal, "AP_logged": round(logged["AP"], 5), **figures, **facts}


def check_twice(data: Path, out: Path, name: str, hyperparameters: dict[str, str]) -> dict[str, Any]:
    """Two equal runs, and one that is stopped at its first checkpoint and resumed, give the same weights."""
    names = []
    for run in ("first", "second", "stopped"):
        with tempfile.TemporaryDirectory() as folder:
            base, log = Path(folder) / "ml", out / f"{name}_{run}.log"
            lay_out_job(data, base, hyperparameters)
            (base / "checkpoints").mkdir()
            config = base / "input" / "config" / "checkpointconfig.json"
            config.write_text(json.dumps({"LocalPath": str(base / "checkpoints")}))
            process = start(base, log)
            if run == "stopped":
                while process.poll() is None and "checkpoint: checkpoint-" not in log.read_text():
                    time.sleep(0.05)
                time.sleep(0.3)
                process.send_signal(signal.SIGTERM)
                if code := wait(process):
                    return {"ok": False, "stopped_exit_code": code}
                process = start(base, log)
            if code := wait(process):
                return {"ok": False, "exit_code": code, "said": log.read_text(errors="replace")[-1500:]}
            names.append(json.loads((base / "model" / "model.json").read_text())["weights"])
    return {"ok": len(set(names)) == 1, "weights": names, **facts_of(out / f"{name}_first.log")}


def check_refused(data: Path, out: Path, name: str, hyperparameters: dict[str, str]) -> dict[str, Any]:
    """The job ends with a sentence on memory, which names a batch that fits."""
    with tempfile.TemporaryDirectory() as folder:
        base, log = Path(folder) / "ml", out / f"{name}.log"
        lay_out_job(data, base, hyperparameters)
        code = wait(start(base, log))
        failure = base / "output" / "failure"
        said = failure.read_text() if failure.exists() else log.read_text(errors="replace")[-1500:]
        return {"ok": code == 2 and "should fit" in said, "exit_code": code, "said": said}


def main() -> int:
    """Run the checks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    parser.add_argument("--parallel", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    kinds: list[tuple[dict[str, dict[str, str]], Callable[..., dict[str, Any]]]] = [
        (DETERMINISTIC, check_twice),
        (JOBS, check_job),
        (REFUSED, check_refused),
    ]
    checks = {name: (check, raw) for jobs, check in kinds for name, raw in jobs.items()}
    if unknown := set(arguments.checks) - set(checks):
        parser.error(f"no such check: {', '.join(sorted(unknown))}; there are {', '.join(checks)}")

    def run(name: str) -> bool:
        check, raw = checks[name]
        raw = raw if "epochs" in raw else COMMON | {"number_of_epochs": str(arguments.epochs)} | raw
        begin = time.monotonic()
        try:
            result = check(arguments.data, arguments.out, name, raw)
        except Exception as error:  # a check that breaks is a finding; the others go on
            result = {"ok": False, "error": repr(error)}
        line = {"check": name, **result, "seconds": round(time.monotonic() - begin, 1)}
        print(json.dumps(line), flush=True)
        return bool(result["ok"])

    with ThreadPoolExecutor(arguments.parallel) as pool:
        results = list(pool.map(run, arguments.checks or checks))
    print(f"{sum(results)} of {len(results)} checks passed", flush=True)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
