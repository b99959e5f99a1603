"""The real ``train`` executable, interrupted and started again, and on the model of an earlier job."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import torch
from tilewise.training.checkpointing.checkpoints import Checkpoints
from training_job import QUICK, ROOT, Job, wait_for, without_graph

TWO = {"TILEWISE_PROCESSES": "2"}


def test_train__goes_on_from_the_model_of_another_job(job: Job) -> None:
    once = QUICK | {"number_of_epochs": "1", "deterministic": "1"}
    code, output = job.run(once)
    assert code == 0, output
    assert json.loads(output.split("INFO Environment: ")[1].split("\n")[0])["hosts"] == ["algo-1"]
    first = json.loads((job.base / "model" / "model.json").read_text())
    assert first["environment"]["threads"] >= 1 and first["hyperparameters"]["deterministic"]
    with tarfile.open(job.channel("model") / "model.tar.gz", "w") as archive:
        archive.add(job.base / "model", ".")
    code, output = job.run(once | {"checkpoint_run_id": "AutoML_1", "use_pretrained_model": "1"})
    assert code == 0, output
    assert "channel model: all weights are those of that model; no pretrained ones are loaded" in output
    code, output = job.run(once | {"model_name": "ssd_vgg16", "image_size": "300"})
    assert code == 2, output
    assert "model_name ssd_vgg16, but that model ssdlite_mobilenet_v3_large" in job.failure


def test_train__killed_with_9_resumes_and_ends_as_if_it_had_not_been() -> None:
    command = ["benchmarks/kills.py", "--kills", "3", "--epochs", "8", "--images", "16", "--seed", "2"]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["final_weights_equal"] and found["final_optimizer_state_equal"]
    assert found["kills"] == 3 and any(each["resumed_after_epochs"] for each in found["each"])


def test_sigterm__with_checkpoints_the_next_start_goes_on_in_the_middle_of_the_epoch(job: Job) -> None:
    (job.base / "checkpoints").mkdir()
    hyperparameters = QUICK | {"number_of_epochs": "3", "training_batch_size": "1"}
    with job.start(hyperparameters) as process:
        seen = wait_for(process, "smooth_l1 <loss>")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, seen + rest
    assert "INFO checkpoint: checkpoint-00" in rest
    shutil.rmtree(job.base / "model")
    code, output = job.run(hyperparameters)
    assert code == 0, output
    assert re.search(r"resumed from \S+/checkpoint-\d+-\w+\.pt: .* of 3 epochs", output)
    history = json.loads((job.base / "output" / "data" / "metrics.json").read_text())
    assert [epoch["records"] for epoch in history["epochs"]] == [12, 12, 12]
    assert {Path(name).suffix for name in without_graph(job.base / "model")} == {".json", ".safetensors"}


def test_processes__two_resume_as_if_they_had_not_been_interrupted(job: Job, tmp_path: Path) -> None:
    hyperparameters = QUICK | {"number_of_epochs": "2", "training_batch_size": "1"}
    (job.base / "checkpoints").mkdir()
    alone = copy_of(job, tmp_path / "alone")
    two = TWO | {"OMP_NUM_THREADS": "1"}  # processes of several threads do not always add in the same order
    code, output = alone.run(hyperparameters, environ=two)
    assert code == 0, output
    with job.start(hyperparameters, environ=two) as process:
        wait_for(process, "smooth_l1 <loss>")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "INFO checkpoint: checkpoint-00" in rest
    shutil.rmtree(job.base / "model")
    code, output = job.run(hyperparameters, environ=two)
    assert code == 0, output
    assert "resumed from " in output
    found, expected = (last_tensors(each.base / "checkpoints") for each in (job, alone))
    assert found.keys() == expected.keys() and len(found) > 300
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def last_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, and what the optimizer remembers of them."""
    state = Checkpoints(folder).newest()
    assert state is not None
    rows = state["parts"]["train_step"]["optimizer"].items()
    memory = {f"optimizer {index} {name}": each[name] for index, each in rows for name in each}
    return {**state["parts"]["train_step"]["model"], **memory}


def copy_of(job: Job, base: Path) -> Job:
    """The same job on another machine."""
    shutil.copytree(job.base, base)
    copy = Job.__new__(Job)
    copy.__dict__ = {**job.__dict__, "base": base}
    return copy
