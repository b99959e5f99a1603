"""The image for endpoints without a GPU: small, without PyTorch, and it serves what a job leaves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_container import CPU_IMAGE, HEALTHCHECK, INVOKE, Engine, find_engine, pins_of

LARGEST = 1_500_000_000


@pytest.fixture
def engine() -> Iterator[Engine]:
    found = Engine(find_engine(CPU_IMAGE), CPU_IMAGE)
    yield found
    for container in found.containers:
        container.remove()


def test_image__is_small_and_has_the_pinned_packages_without_pytorch(engine: Engine) -> None:
    assert engine.inspect()["Size"] < LARGEST
    installed = engine.packages()
    assert installed == pins_of("serving_requirements.txt") < pins_of("requirements.txt")
    assert not any(pin.startswith(("torch", "nvidia", "onnx==")) for pin in installed)


def test_image__says_what_sagemaker_asks(engine: Engine) -> None:
    config = engine.inspect()["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["/usr/bin/env"], ["serve"])
    assert config["Labels"]["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert config["Labels"]["com.amazonaws.sagemaker.capabilities.multi-models"] == "true"


def test_serve__answers_sealed_and_stops_with_0(engine: Engine, graph_folder: Path, job: Path) -> None:
    shutil.copytree(graph_folder, job / "model", dirs_exist_ok=True)
    container = engine.start("serve", base=job)
    container.wait_for(lambda: container.execute(HEALTHCHECK).returncode == 0)
    answer = container.execute("python3", "-c", INVOKE, "/opt/ml/input/data/validation/0.jpg")
    assert int(answer.stdout) > 0, answer.stderr + container.log()
    code, _ = container.stop(30)
    assert code == 0, container.log()


def test_serve__a_model_without_a_graph_is_one_sentence(
    engine: Engine, model_folder: Path, job: Path
) -> None:
    shutil.copytree(model_folder, job / "model", dirs_exist_ok=True)
    done = engine.run("serve", base=job)
    assert done.returncode == 3, done.stderr
    # each worker may say it, if it began before the first one ended the server
    start = "PyTorch is not installed"
    (said,) = {start + line.partition(start)[2] for line in done.stderr.splitlines() if start in line}
    assert "tilewise export MODEL --even-if-slower" in said
