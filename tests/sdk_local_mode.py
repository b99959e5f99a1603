"""Local Mode's examples with either version of the SageMaker Python SDK, and what their containers did."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SDK_PYTHON = {
    version: ROOT / folder / "bin" / "python" for version, folder in ((2, ".venv-sdk"), (3, ".venv-sdk3"))
}
EXAMPLES = {2: ROOT / "examples" / "local_mode_v2.py", 3: ROOT / "examples" / "local_mode.py"}
NO_TELEMETRY = "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n"
RUN = """
import runpy, sys
if "_v2" in sys.argv[1]:
    from sagemaker.session import Session
    Session.wait_for_endpoint.__defaults__ = (1, False)  # looks every second, not every 30
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Ran:
    """What an example did.

    Attributes:
        code: its exit code.
        printed: by it and by its containers.
        containers: exit code and command of each, in order.

    """

    code: int
    printed: str
    containers: list[str]


def run_example(
    version: int, image: str, data: Path, pictures: Path, out: Path, docker_host: str, *more: str
) -> Ran:
    """Run a version's example. Its containers are removed; fit passes at times although one failed."""
    out.mkdir(parents=True, exist_ok=True)
    environ = _environment(out, docker_host)
    before = _containers(environ)
    command = [str(SDK_PYTHON[version]), "-c", RUN, str(EXAMPLES[version]), image, str(data), str(pictures)]
    try:
        done = subprocess.run(
            [*command, str(out), *more], env=environ, capture_output=True, text=True, timeout=500
        )
    finally:
        ran = {name: state for name, state in _containers(environ).items() if name not in before}
        subprocess.run(["docker", "rm", "-f", *ran], env=environ, capture_output=True)
    return Ran(done.returncode, done.stdout + done.stderr, sorted(ran.values()))


def files_of(archive: Path) -> list[str]:
    """The files of a model's archive, but for the graph, which it may have."""
    with tarfile.open(archive) as opened:
        names = [Path(member.name).name for member in opened.getmembers() if member.isfile()]
    return [name for name in names if not name.endswith(".onnx")]


def _environment(folder: Path, docker_host: str) -> dict[str, str]:
    config = folder / "sagemaker.yaml"
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


def _containers(environ: dict[str, str]) -> dict[str, str]:
    """Exit code and command of each container of Local Mode that there is."""
    listing = ["docker", "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}}"]
    rows = subprocess.run(listing, env=environ, capture_output=True, text=True, check=True).stdout
    ids = re.findall(r"^(\S+) \S*algo-\d\S*$", rows, re.MULTILINE)
    command = ["docker", "inspect", "--format", '{{.State.ExitCode}} {{join .Config.Cmd " "}}']
    return {
        name: subprocess.run([*command, name], env=environ, capture_output=True, text=True).stdout.strip()
        for name in ids
    }
