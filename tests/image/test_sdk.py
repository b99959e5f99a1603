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
SDK_PYTHON = {
    version: ROOT / folder / "bin" / "python" for version, folder in ((2, ".venv-sdk"), (3, ".venv-sdk3"))
}
NO_TELEMETRY = "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n"
RUN = """
import runpy, sys
if "_v2" in sys.argv[1]:
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
    ids = re.findall(r"^(\S+) \S*algo-\d\S*$", rows, re.MULTILINE)
    command = ["docker", "inspect", "--format", '{{.State.ExitCode}} {{join .Config.Cmd " "}}']
    return {
        name: subprocess.run([*command, name], env=environ, capture_output=True, text=True).stdout.strip()
        for name in ids
    }


def local_mode(
    tmp_path: Path, job: Path, docker_host: str, *, version: int, more: tuple[str, ...]
) -> tuple[str, list[str], Path]:
    """Run a version's example; what it printed, exit code and command of each container, and its folder."""
    if not SDK_PYTHON[version].exists():
        pytest.skip("not set up: bash tests/image/setup_sdk.sh")
    environ = sdk_environment(tmp_path, docker_host)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for picture in (job / "input" / "data" / "validation").glob("*.jpg"):
        shutil.copy(picture, pictures)
    before = containers(environ)
    example = ROOT / "examples" / ("local_mode.py" if version == 3 else "local_mode_v2.py")
    command = [str(SDK_PYTHON[version]), "-c", RUN, str(example), IMAGE, str(job / "input" / "data")]
    chosen = ("image_size=128", "training_batch_size=4", "box_score_threshold=0.01", "use_pretrained_model=0")
    command += [str(pictures), str(tmp_path / "out"), *chosen, *more]
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=500)
    finally:
        ran = {name: state for name, state in containers(environ).items() if name not in before}
        subprocess.run(["docker", "rm", "-f", *ran], env=environ, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"predict: 0\.jpg: [1-9]\d* objects", done.stdout), done.stdout
    assert re.search(r"transform: 4 answers, [1-9]\d* objects", done.stdout), done.stdout
    return done.stdout + done.stderr, sorted(ran.values()), tmp_path / "out"


def files_of(archive: Path) -> list[str]:
    """The files of a model's archive, but for the graph, which it may have."""
    with tarfile.open(archive) as opened:
        names = [Path(member.name).name for member in opened.getmembers() if member.isfile()]
    return [name for name in names if not name.endswith(".onnx")]


def test_sdk_3__fit_predict_transform(tmp_path: Path, job: Path, docker_host: str, free_port: int) -> None:
    more = ("number_of_epochs=1", f"--port={free_port}")
    printed, ran, out = local_mode(tmp_path, job, docker_host, version=3, more=more)
    # fit passes at times although its container failed; see the containers' own exit codes
    assert ran == ["0 serve", "0 serve", "0 train"]
    assert "completed 100 % of epochs" in printed
    assert len(files_of(out / "job" / "compressed_artifacts" / "model.tar.gz")) == 2


def test_sdk_2__fit_twice_deploy_predict_transform(
    tmp_path: Path, job: Path, docker_host: str, free_port: int
) -> None:
    more = ("number_of_epochs=2", f"--port={free_port}", "--instances=2", "--more-epochs=1")
    printed, ran, out = local_mode(tmp_path, job, docker_host, version=2, more=more)
    assert ran == ["0 serve", "0 serve", "0 train", "0 train", "0 train"]
    assert "training with 1 processes on each of 2 hosts" in printed
    assert "fit again: file://" in printed
    for place in ("before", "."):  # the first job's model, of both hosts, and the second one's
        files = files_of(out / place / "model.tar.gz")
        assert len(files) == 2 and "model.json" in files
