"""The image's containers, run as SageMaker runs them, for the tests in tests/image."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

IMAGE = os.environ.get("TILEWISE_TEST_IMAGE", "localhost/tilewise-test")
CPU_IMAGE = os.environ.get("TILEWISE_TEST_CPU_IMAGE", "localhost/tilewise-test-cpu")
SEALED = ("--read-only", "--network=none", "--shm-size=64m", "--cpus=2")
"""All that a container is not promised: a writable root, a network, shared memory, many cores."""
HYPERPARAMETERS = {
    "model_name": "ssdlite_mobilenet_v3_large",
    "image_size": "128",
    "number_of_epochs": "1",
    "training_batch_size": "4",
    "box_score_threshold": "0.01",
    "use_pretrained_model": "0",
}


def find_engine(image: str = IMAGE) -> str:
    """Docker or podman, whichever has the image; skips where neither has."""
    if os.geteuid() == 0 and shutil.which("runc"):
        os.environ.setdefault("CONTAINERS_CONF", str(Path(__file__).parent / "image" / "containers.conf"))
    for engine in ("podman", "docker"):
        if shutil.which(engine) and _run(engine, "image", "inspect", image).returncode == 0:
            return engine
    pytest.skip(f"there is no image {image}: bash tests/image/build.sh makes it (root, podman, debootstrap)")


def _run(*command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    # Podman without systemd says on stderr that it cannot schedule health checks.
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


INVOKE = """
import json, sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8080/invocations", open(sys.argv[1], "rb").read())
request.add_header("Content-Type", "image/jpeg")
print(len(json.load(urllib.request.urlopen(request))["prediction"]))
"""
HEALTHCHECK = "/opt/tilewise/container/healthcheck"


class Container:
    """A container that runs in the background, and is removed at the end."""

    def __init__(self, engine: str, name: str) -> None:
        self.engine, self.name = engine, name

    def log(self) -> str:
        done = _run(self.engine, "logs", self.name)
        return done.stdout + done.stderr

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return _run(self.engine, "exec", self.name, *command)

    def wait_for(self, ready: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            running = _run(self.engine, "inspect", "--format", "{{.State.Running}}", self.name).stdout.strip()
            assert running == "true", f"the container has ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"nothing after {seconds} s:\n{self.log()}"
            time.sleep(0.3)

    def stop(self, patience: int) -> tuple[int, float]:
        """What ``docker stop`` does: SIGTERM, and SIGKILL later. Returns exit code and seconds."""
        started = time.monotonic()
        _run(self.engine, "stop", "-t", str(patience), self.name)
        seconds = time.monotonic() - started
        code = _run(self.engine, "inspect", "--format", "{{.State.ExitCode}}", self.name).stdout
        return int(code), seconds

    def remove(self) -> None:
        _run(self.engine, "rm", "-f", self.name)


class Engine:
    """Runs the image as SageMaker does, under the conditions of :data:`SEALED`."""

    def __init__(self, name: str, image: str = IMAGE) -> None:
        self.name, self.image = name, image
        self.containers: list[Container] = []

    def inspect(self) -> dict[str, Any]:
        """What the engine knows of the image; its ``Config`` is what containers get."""
        found: dict[str, Any] = json.loads(_run(self.name, "image", "inspect", self.image).stdout)[0]
        return found

    def packages(self) -> set[str]:
        """The Python packages in the image, as pins."""
        listing = (
            "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
        )
        return {_normal(pin) for pin in self.run("python3", "-c", listing).stdout.split()}

    def run(
        self, *command: str, base: Path | None = None, more: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        return _run(self.name, "run", "--rm", *self._options(base), *more, self.image, *command)

    def start(self, *command: str, base: Path, more: Sequence[str] = ()) -> Container:
        done = _run(self.name, "run", "--detach", *self._options(base), *more, self.image, *command)
        assert done.returncode == 0, done.stderr
        container = Container(self.name, done.stdout.strip())
        self.containers.append(container)
        return container

    @property
    def without_tmp(self) -> tuple[str, ...]:
        """Options that make nothing writable where the root is not; podman has a tmpfs at /tmp by itself."""
        return ("--read-only-tmpfs=false",) if self.name == "podman" else ()

    def _options(self, base: Path | None) -> list[str]:
        volume = [f"--volume={base}:/opt/ml"] if base else []
        # Two processes on two cores wait for each other; one thread each does not.
        return [*SEALED, "--env=OMP_NUM_THREADS=1", *volume]


def configure(base: Path, **hyperparameters: str) -> None:
    """Write the job's configuration as SageMaker does."""
    config = base / "input" / "config"
    config.mkdir(parents=True, exist_ok=True)
    channels = {name: {"TrainingInputMode": "File"} for name in ("train", "validation")}
    hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    (config / "hyperparameters.json").write_text(json.dumps(HYPERPARAMETERS | hyperparameters))
    (config / "inputdataconfig.json").write_text(json.dumps(channels))
    (config / "resourceconfig.json").write_text(json.dumps(hosts))


def pins_of(requirements: str) -> set[str]:
    """The pins in one of the repository's files."""
    text = (Path(__file__).resolve().parents[1] / requirements).read_text()
    return {_normal(pin) for pin in re.findall(r"^[\w.-]+==\S+", text, re.MULTILINE)}


def _normal(pin: str) -> str:
    name, version = pin.split("==")
    return f"{re.sub('[-_.]+', '-', name).lower()}=={version.split('+')[0]}"
