"""The SageMaker Python SDK's Local Mode, through examples/local_mode.py: fit, deploy, predict, transform."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from image_container import IMAGE

ROOT = Path(__file__).resolve().parents[2]
SDK_PYTHON = ROOT / ".venv-sdk" / "bin" / "python"
NO_TELEMETRY = "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n"
RUN = """
import runpy, sys
from sagemaker.session import Session
Session.wait_for_endpoint.__defaults__ = (1, False)  # looks every second, not every 30
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def sdk_environment(tmp_path: Path, docker_host: str) -> dict[str, str]:
    config = tmp_path / "sagemaker.yaml"
    config.write_text(NO_TELEMETRY)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return environ | {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DOCKER_HOST": docker_host,
        "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config),
    }


def containers(environ: dict[str, str]) -> dict[str, str]:
    """Exit code and command of each container of Local Mode that there is."""
    listing = ["docker", "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}}"]
    rows = subprocess.run(listing, env=environ, capture_output=True, text=True, check=True).stdout
    ids = re.findall(r"^(\S+) [a-z0-9]+-algo-\d+-[a-z0-9]{5}$", rows, re.MULTILINE)
    command = ["docker", "inspect", "--format", '{{.State.ExitCode}} {{join .Config.Cmd " "}}']
    return {
        name: subprocess.run([*command, name], env=environ, capture_output=True, text=True).stdout.strip()
        for name in ids
    }


@pytest.mark.skipif(not SDK_PYTHON.exists(), reason="not set up: bash tests/image/setup_sdk.sh")
def test_sdk__fit_twice_deploy_predict_transform(
    tmp_path: Path, job: Path, docker_host: str, free_port: int
) -> None:
    environ = sdk_environment(tmp_path, docker_host)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for picture in (job / "input" / "data" / "validation").glob("*.jpg"):
        shutil.copy(picture, pictures)
    before = containers(environ)
    script = [str(SDK_PYTHON), "-c", RUN, str(ROOT / "examples" / "local_mode.py"), IMAGE]
    chosen = ("image_size=128", "number_of_epochs=2", "training_batch_size=4", "box_score_threshold=0.01")
    arguments = (
        str(job / "input" / "data"),
        str(pictures),
        str(tmp_path / "out"),
        *chosen,
        "use_pretrained_model=0",
        f"--port={free_port}",
        "--instances=2",
        "--more-epochs=1",
    )
    try:
        done = subprocess.run([*script, *arguments], env=environ, capture_output=True, text=True, timeout=500)
    finally:
        ran = {name: state for name, state in containers(environ).items() if name not in before}
        subprocess.run(["docker", "rm", "-f", *ran], env=environ, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # fit passes at times although its container failed; see the containers' own exit codes
    assert sorted(ran.values()) == ["0 serve", "0 serve", "0 train", "0 train", "0 train"]
    assert "training with 1 processes on each of 2 hosts" in done.stdout, done.stdout
    assert "fit again: file://" in done.stdout
    for place in ("before", "."):  # the first job's model, of both hosts, and the second one's
        with tarfile.open(tmp_path / "out" / place / "model.tar.gz") as archive:
            names = [Path(member.name).name for member in archive.getmembers() if member.isfile()]
        # beside them there may be the model's graph
    assert len([name for name in names if not name.endswith(".onnx")]) == 2 and "model.json" in names
    assert re.search(r"predict: 0\.jpg: [1-9]\d* objects", done.stdout), done.stdout
    assert re.search(r"transform: 4 answers, [1-9]\d* objects", done.stdout), done.stdout
