"""The real ``train`` in several processes: on one host, and on two hosts with a network of their own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from forked import Forked
from tilewise.data.channel import ChannelFolder, read_data_set
from tilewise.evaluation.evaluate import evaluate
from tilewise.evaluation.voc import VocMetric
from tilewise.inference.predictor import Predictor
from training_job import QUICK, Job, wait_for, without_graph

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "local_test"))

from two_hosts import HOSTS, NoNetworks, two_hosts

TWO = {"TILEWISE_PROCESSES": "2"}


@pytest.fixture(scope="module")
def network() -> Iterator[list[list[str]]]:
    """Two hosts that know each other by name; a command that enters each."""
    with ExitStack() as stack:
        try:
            commands = stack.enter_context(two_hosts())
        except NoNetworks as reason:
            pytest.skip(f"no networks can be made here: {reason}")
        yield commands


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """A folder like /opt/ml for each host, with the same data."""
    first = Job(tmp_path / HOSTS[0])
    first.add_images("train", 12)
    first.add_images("validation", 1, empty=0)
    shutil.copytree(tmp_path / HOSTS[0], tmp_path / HOSTS[1])
    second = Job.__new__(Job)
    second.__dict__ = {**first.__dict__, "base": tmp_path / HOSTS[1]}
    return [first, second]


def start(
    jobs: list[Job], network: list[list[str]], hyperparameters: dict[str, str]
) -> list[Forked | subprocess.Popen[str]]:
    return [
        job.start(hyperparameters, host=host, hosts=HOSTS, command=command)
        for job, host, command in zip(jobs, HOSTS, network, strict=True)
    ]


def finish(processes: list[Forked | subprocess.Popen[str]]) -> tuple[list[int | None], list[str]]:
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_hosts__with_uneven_shards_train_one_model_that_the_first_writes(
    jobs: list[Job], network: list[list[str]]
) -> None:
    for job in jobs:
        job.distribution = "ShardedByS3Key"
    for path in sorted(jobs[1].channel("train").iterdir())[3:]:
        path.unlink()
        (jobs[1].channel("train_annotation") / path.with_suffix(".json").name).unlink()
    for channel in ("validation", "validation_annotation"):  # the second host has another image
        for path in jobs[1].channel(channel).iterdir():
            path.rename(path.with_stem("other"))
    (text,) = jobs[1].channel("validation_annotation").iterdir()
    text.write_text(text.read_text().replace("image 00", "other"))
    codes, outputs = finish(start(jobs, network, QUICK))
    assert codes == [0, 0], outputs
    assert "training with 1 processes on each of 2 hosts" in outputs[0]
    model = json.loads((jobs[0].base / "model" / "model.json").read_text())
    assert without_graph(jobs[0].base / "model") == {"model.json", model["weights"]}
    assert files(jobs[1].base / "model") == files(jobs[1].base / "output") == []
    history = json.loads((jobs[0].base / "output" / "data" / "metrics.json").read_text())
    # three batches of 4 on each host: 12 images on the first, and 3 again and again on the second
    assert [epoch["records"] for epoch in history["epochs"]] == [24, 24]
    assert "validation mAP" in outputs[0] and "#quality_metric" not in outputs[1]


def test_hosts__error_of_one_is_the_reason_on_both(jobs: list[Job], network: list[list[str]]) -> None:
    for path in jobs[1].channel("train").iterdir():
        path.write_bytes(path.read_bytes()[:1500])
    codes, outputs = finish(start(jobs, network, QUICK))
    assert codes == [2, 2], outputs
    assert "channel train: " in jobs[1].failure and "cannot be used" in jobs[1].failure
    assert jobs[0].failure == jobs[1].failure
    assert "Traceback" not in "".join(outputs)


def test_hosts__sigterm_to_one_stops_both_with_a_whole_model(
    jobs: list[Job], network: list[list[str]]
) -> None:
    processes = start(jobs, network, QUICK | {"number_of_epochs": "500", "early_stopping": "0"})
    wait_for(processes[0], "smooth_l1 <loss>")
    begin = time.monotonic()
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = finish(processes)
    assert codes == [0, 0], outputs
    assert time.monotonic() - begin < 60
    assert len(files(jobs[0].base / "model")) == 2
    assert not jobs[0].failure and not jobs[1].failure
    assert "stopped on request" in outputs[0]


def test_processes__share_a_pipe(jobs: list[Job]) -> None:
    job = jobs[0]
    for channel in ("train", "validation"):
        job.pipe(channel)
    with job.platform("train", 2), job.platform("validation", 2):
        code, output = job.run(
            QUICK | {"num_classes": "2", "num_training_samples": "12", "num_workers": "1"}, environ=TWO
        )
    assert code == 0, output
    history = json.loads((job.base / "output" / "data" / "metrics.json").read_text())
    assert [epoch["records"] for epoch in history["epochs"]] == [16, 16]  # two steps of 2 x 4
    assert len(re.findall("validation mAP <score>", output)) == 2
    assert "Traceback" not in output
    assert len(without_graph(job.base / "model")) == 2


def test_processes__share_a_batch_and_the_validation(jobs: list[Job]) -> None:
    job = jobs[0]
    job.add_images("validation", 5)
    hyperparameters = QUICK | {"mini_batch_size": "5", "number_of_epochs": "1"}
    del hyperparameters["training_batch_size"]
    code, output = job.run(hyperparameters, environ=TWO | {"OMP_NUM_THREADS": "1"})
    assert code == 0, output
    assert "mini_batch_size=5 is no multiple of the 2 GPUs: 6 is used" in output
    assert "batch=2 train" in output
    parts = ("train", "train_annotation", "validation", "validation_annotation")
    folders = {name: ChannelFolder(job.channel(name)) for name in parts}
    validation = read_data_set(folders, None, validates=True, seed=0).validation
    assert validation is not None and len(validation.sample) == 5
    # as each process computes: what it has hardly learnt hangs on rounding
    predictor = Predictor.load(job.base / "model", batch_size=3, backend="eager")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = evaluate(predictor, validation.one_pass(), validation.issues, voc=VocMetric(points="all"))
    torch.set_num_threads(threads)
    logged = json.loads((job.base / "model" / "model.json").read_text())["metrics"]
    assert alone is not None
    assert logged["AP50"] == pytest.approx(alone["AP50"], abs=1e-4)
    assert logged["VOC"]["mAP"] == pytest.approx(alone["VOC"]["mAP"], abs=1e-4)
