"""compose.yaml in containers: it trains on a folder, then serves the model and its page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from image_container import HYPERPARAMETERS, IMAGE

ROOT = Path(__file__).resolve().parents[2]


def test_up__trains_and_serves_with_the_page(
    tmp_path: Path, job: Path, docker_host: str, free_port: int
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "local_test" / "compose", checkout / "local_test" / "compose")
    shutil.copy(ROOT / "compose.yaml", checkout)
    config = checkout / "local_test" / "compose" / "hyperparameters.json"
    config.write_text(json.dumps(HYPERPARAMETERS | {"precision": "fp32"}))
    for folder in ("model", "output", "checkpoints"):  # which Docker makes, and podman's service does not
        (tmp_path / "out" / folder).mkdir(parents=True)
    environ = os.environ | {
        "COMPOSE_PROJECT_NAME": "tilewise-test-compose",
        "DATA": str(job / "input" / "data"),
        "DOCKER_HOST": docker_host,
        "IMAGE": IMAGE,
        "OUTPUT": str(tmp_path / "out"),
        "PORT": str(free_port),
    }

    def compose(*arguments: str) -> str:
        done = subprocess.run(
            ["docker-compose", *arguments],
            cwd=checkout,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        compose("up", "--detach")
        address = f"http://127.0.0.1:{free_port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                assert urlopen(f"{address}/ping").status == 200
                break
            except (URLError, OSError):
                assert time.monotonic() < deadline, compose("logs")
                time.sleep(0.5)
        page = urlopen(Request(f"{address}/", headers={"Accept": "text/html"})).read().decode()
        assert "<html" in page
        picture = (job / "input" / "data" / "validation" / "0.jpg").read_bytes()
        request = Request(f"{address}/invocations", picture, {"Content-Type": "image/jpeg"})
        answer = json.load(urlopen(request))
        assert answer["classes"] == ["square"]
        assert "completed 100 % of epochs" in compose("logs", "train")
    finally:
        compose("down")
    assert (tmp_path / "out" / "output" / "data" / "report.html").is_file()
    assert any((tmp_path / "out" / "checkpoints").iterdir())
