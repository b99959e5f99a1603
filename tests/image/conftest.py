from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from image_container import Engine, configure, find_engine
from PIL import Image


@pytest.fixture
def engine() -> Iterator[Engine]:
    found = Engine(find_engine())
    yield found
    for container in found.containers:
        container.remove()


@pytest.fixture
def docker_host(tmp_path: Path) -> Iterator[str]:
    """The address of a Docker socket with the image behind it: Docker's own, or podman's for this test."""
    for command in ("docker", "docker-compose"):
        if not shutil.which(command):
            pytest.skip(f"{command} is not installed")
    if find_engine() == "docker":
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return
    path = tmp_path / "podman.sock"
    service = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{path}"])
    try:
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        yield f"unix://{path}"
    finally:
        service.terminate()
        service.wait()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder like /opt/ml: 8 images of bright squares to train on, 4 to validate."""
    base = tmp_path / "ml"
    rng = np.random.default_rng(0)
    for channel, count in (("train", 8), ("validation", 4)):
        folder = base / "input" / "data" / channel
        folder.mkdir(parents=True)
        images: list[dict[str, object]] = []
        annotations: list[dict[str, object]] = []
        for index in range(count):
            pixels = rng.integers(80, 120, (96, 128, 3), dtype=np.uint8)
            x, y = rng.integers((90, 60)).tolist()
            pixels[y : y + 30, x : x + 30] = (240, 60, 40)
            Image.fromarray(pixels).save(folder / f"{index}.jpg")
            images.append({"id": index, "file_name": f"{index}.jpg", "width": 128, "height": 96})
            annotations.append({"id": index, "image_id": index, "category_id": 1, "bbox": [x, y, 30, 30]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
        (folder / "annotations.json").write_text(json.dumps(content))
    for name in ("model", "output/data"):
        (base / name).mkdir(parents=True)
    configure(base)
    return base
