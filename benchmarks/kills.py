"""A training job that is killed with -9 again and again ends as one that was left alone, to the bit.

Kills ``train`` at random moments, from its start-up on, and starts it again with the checkpoints that it
left, every second time on a "new machine", whose model folder is empty. After each kill the model folder must
hold a whole model, or none; the next start must resume from the last checkpoint that was written; and the
final weights, optimizer and figures must equal those of an undisturbed run. Prints JSON; fails where they do
not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from small_job import lay_out, model_in, start

CHECKPOINT = "INFO checkpoint: "
READY = "INFO Environment: "
"""The line before the first step."""


def log_of(base: Path) -> str:
    """What the job has said in all of its lives."""
    return (base / "log").read_text() if (base / "log").exists() else ""


def epochs_kept(base: Path) -> int:
    """Epochs that are done in the newest checkpoint that was written, as the log says."""
    before = log_of(base).split(CHECKPOINT)[:-1]
    return len(set(re.findall(r"epoch=(\d+), validation", "".join(before))))


def run_to_the_end(base: Path) -> tuple[float, float]:
    """Let the job end; returns its seconds, to the first checkpoint and to the end."""
    begin = time.monotonic()
    first = 0.0
    process = start(base)
    while process.poll() is None:
        time.sleep(0.05)
        if not first and CHECKPOINT in log_of(base):
            first = time.monotonic() - begin
    if process.returncode != 0:
        sys.exit(f"the job failed:\n{log_of(base)[-3000:]}")
    return first, time.monotonic() - begin


def fingerprints(base: Path) -> dict[str, Any]:
    """Of the weights that the job leaves, of all tensors of its last checkpoint, and its figures."""
    import torch

    newest = max((base / "checkpoints").iterdir())
    train_step = torch.load(newest, weights_only=True)["parts"]["train_step"]
    digest = hashlib.sha256()
    for tensor in _tensors(train_step):
        digest.update(tensor.contiguous().numpy().tobytes())
    (weights,) = (base / "model").glob("*.safetensors")
    epochs = json.loads((base / "output" / "data" / "metrics.json").read_text())["epochs"]
    for epoch in epochs:
        for timed in ("seconds", "validation_seconds"):
            epoch.pop(timed, None)
    return {
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "weights_file": weights.name,
        "last_state_sha256": digest.hexdigest(),
        "epochs": epochs,
    }


def _tensors(content: Any) -> list[Any]:
    if isinstance(content, dict):
        return [tensor for key in content for tensor in _tensors(content[key])]
    return [content] if hasattr(content, "contiguous") else []


MARKS = {"its start": "", "its first step": READY, "a checkpoint": "INFO checkpoint: "}
"""What a kill may come after, and the line of the log that tells."""


def kill_once(base: Path, seconds: float, mark: str, *, new_machine: bool) -> dict[str, Any]:
    """Start the job, kill it so many seconds after one of :data:`MARKS`, and look at what is left."""
    if new_machine:
        shutil.rmtree(base / "model")
        (base / "model").mkdir()
    said_before, kept = len(log_of(base)), epochs_kept(base)
    process = start(base)
    while process.poll() is None and MARKS[mark] not in log_of(base)[said_before:]:
        time.sleep(0.01)
    time.sleep(seconds)
    ended = process.poll()
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = log_of(base)[said_before:]
    resumed = re.search(r"resumed from \S+: after epoch (\d+) of", said)
    model = model_in(base / "model")
    facts = {
        "killed": f"{seconds:.2f} s after {mark}",
        "new_machine": new_machine,
        "resumed_after_epochs": int(resumed[1]) + 1 if resumed else None,
        "last_line": said.strip().splitlines()[-1][-90:] if said.strip() else "",
        "model": model,
    }
    assert ended is None, f"the job ended by itself ({ended}) before it was killed: give it more epochs"
    if resumed:
        # One more, where it was killed between the checkpoint and the line that says so.
        assert kept <= int(resumed[1]) + 1 <= kept + 1, f"a checkpoint was lost: {facts}"
    elif kept:
        assert "#throughput_metric" not in said, f"it began anew: {facts}"
    assert not model.startswith("BROKEN"), facts
    return facts


def main() -> None:
    """Run both jobs, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        for base in (alone, killed):
            lay_out(base, arguments.epochs, arguments.images)
        first, seconds = run_to_the_end(alone)
        metrics = json.loads((alone / "output" / "data" / "metrics.json").read_text())
        epoch = sum(each["seconds"] + each["validation_seconds"] for each in metrics["epochs"])
        epoch /= arguments.epochs
        ready = first - epoch
        kills = []
        for number in range(arguments.kills):
            mark = "its start" if rng.random() < 0.3 else "its first step"
            if number == 0:  # so that there is something to resume
                mark = "a checkpoint"
            most = {"its start": ready, "its first step": 2 * epoch, "a checkpoint": epoch}[mark]
            kills.append(kill_once(killed, rng.uniform(0, most), mark, new_machine=number % 2 == 1))
        run_to_the_end(killed)
        expected, found = fingerprints(alone), fingerprints(killed)
        result = {
            "kills": len(kills),
            "epochs": arguments.epochs,
            "seconds_an_epoch": round(epoch, 2),
            "seconds_to_the_first_step": round(ready, 1),
            "seconds_undisturbed": round(seconds, 1),
            "model_after_each_kill": "whole or none",
            "final_weights_equal": expected["weights_sha256"] == found["weights_sha256"],
            "final_optimizer_state_equal": expected["last_state_sha256"] == found["last_state_sha256"],
            "figures_of_all_epochs_equal": expected["epochs"] == found["epochs"],
            "each": kills,
        }
    print(json.dumps(result, indent=1))
    if not all(value for name, value in result.items() if name.endswith("_equal")):
        sys.exit("the job that was killed ended otherwise than the one that was not")


if __name__ == "__main__":
    main()
