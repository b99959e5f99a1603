"""examples/images_to_endpoint.ipynb, cell by cell, with moto's server in place of AWS: nothing is trained."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = {
    2: (ROOT / "examples" / "images_to_endpoint_v2.ipynb", ROOT / ".venv-sdk" / "bin" / "python"),
    3: (ROOT / "examples" / "images_to_endpoint.ipynb", ROOT / ".venv-sdk3" / "bin" / "python"),
}
"""Of the SDK: its notebook, and a Python that has it."""

RUN_CELLS = """
import json, os, sys
# The SDK names the address of AWS's identities itself, and no variable changes it.
if sys.argv[4] == "2":
    import sagemaker.session as session
    session.Session.wait_for_endpoint.__defaults__ = (1, False)  # looks every second, not every 30
else:
    import botocore.client, sagemaker.core.helper.session_helper as session
    call = botocore.client.BaseClient._make_api_call
    def without_empty(*arguments):  # as {} of a model without a VPC, which moto says and SageMaker does not
        return {key: value for key, value in call(*arguments).items() if value != {}}
    botocore.client.BaseClient._make_api_call = without_empty
session.sts_regional_endpoint = lambda region: os.environ["AWS_ENDPOINT_URL"]
names = {}
for number, source in enumerate(json.load(open(sys.argv[1]))):
    exec(compile(source, f"cell {number}", "exec"), names)
    if number == 0:
        names |= json.loads(sys.argv[2])
names["shown"].save(sys.argv[3])
"""


FOUND = {"prediction": [[0.0, 0.9, 0.25, 0.25, 0.75, 0.75], [0.0, 0.1, 0.0, 0.0, 1.0, 1.0]]}


def cells(notebook_file: Path) -> list[str]:
    notebook = json.loads(notebook_file.read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("version", VERSIONS)
def test_notebook__has_no_outputs(version: int) -> None:
    for cell in json.loads(VERSIONS[version][0].read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.parametrize("version", VERSIONS)
def test_notebook__uploads_trains_deploys_and_draws_what_is_found(
    version: int, tmp_path: Path, aws: dict[str, str], runtime: tuple[str, list[bytes]]
) -> None:
    notebook, python = VERSIONS[version]
    if not python.exists():
        pytest.skip("no SageMaker SDK here: bash tests/image/setup_sdk.sh")
    if version == 3 and not os.environ.get("TILEWISE_NOTEBOOKS"):
        pytest.skip("version 3 polls every half minute: TILEWISE_NOTEBOOKS=1 runs its notebook")
    for channel in ("train", "validation"):
        (tmp_path / "data" / channel).mkdir(parents=True)
        Image.new("RGB", (80, 60), (0, 0, 90)).save(tmp_path / "data" / channel / "0.jpg")
    chosen = {
        "data": str(tmp_path / "data"),
        "picture": str(tmp_path / "data" / "validation" / "0.jpg"),
        "role": "arn:aws:iam::111111111111:role/sagemaker",
    }
    if version == 3:
        chosen["pictures"] = "s3://bucket/pictures"
    (tmp_path / "cells").write_text(json.dumps(cells(notebook)))
    command = [str(python), "-c", RUN_CELLS, str(tmp_path / "cells"), json.dumps(chosen)]
    done = subprocess.run(
        [*command, str(tmp_path / "shown.png"), str(version)],
        env={**aws, "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": runtime[0]} | no_telemetry(tmp_path),
        cwd=notebook.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    assert runtime[1] == [(tmp_path / "data" / "validation" / "0.jpg").read_bytes()]
    sagemaker, s3 = client(aws, "sagemaker"), client(aws, "s3")
    # the jobs of both versions are in moto; the newest first
    jobs = sorted(
        sagemaker.list_training_jobs()["TrainingJobSummaries"], key=lambda each: each["CreationTime"]
    )
    described = sagemaker.describe_training_job(TrainingJobName=jobs[-1]["TrainingJobName"])
    assert described["HyperParameters"]["model_name"].strip('"') == "fasterrcnn_resnet50_fpn"
    assert described["EnableManagedSpotTraining"] and described["EnableNetworkIsolation"]
    assert {channel["ChannelName"] for channel in described["InputDataConfig"]} == {"train", "validation"}
    for channel in described["InputDataConfig"]:
        bucket, _, prefix = channel["DataSource"]["S3DataSource"]["S3Uri"][5:].partition("/")
        assert s3.get_object(Bucket=bucket, Key=f"{prefix}/0.jpg")["ContentLength"] > 0
    assert described["StoppingCondition"]["MaxWaitTimeInSeconds"] == 8 * 3600
    if version == 3:
        assert described["CheckpointConfig"]["S3Uri"].endswith("/tilewise/checkpoints")
        (transform,) = sagemaker.list_transform_jobs()["TransformJobSummaries"]
        asked = sagemaker.describe_transform_job(TransformJobName=transform["TransformJobName"])
        assert asked["BatchStrategy"] == "SingleRecord"
        assert asked["TransformInput"]["ContentType"] == "application/x-image"
    assert sagemaker.list_endpoints()["Endpoints"] == [] and sagemaker.list_models()["Models"] == []
    with Image.open(tmp_path / "shown.png") as picture:
        assert picture.getpixel((20, 30)) == (255, 0, 0), "the box is not drawn"
        assert picture.getpixel((0, 30)) != (255, 0, 0), "the box below the threshold is drawn"


def client(aws: dict[str, str], service: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=aws["AWS_ENDPOINT_URL"], **keys)


@pytest.fixture
def runtime() -> Iterator[tuple[str, list[bytes]]]:
    """The address of all endpoints, and the images that they were asked about; moto's take text only."""
    asked: list[bytes] = []

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "image/jpeg"
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(FOUND).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def no_telemetry(folder: Path) -> dict[str, str]:
    config = folder / "sagemaker.yaml"
    config.write_text("SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n")
    environ = {"SAGEMAKER_USER_CONFIG_OVERRIDE": str(config), "SAGEMAKER_SUPPRESS_V2_WARNING": "1"}
    environ |= {"SAGEMAKER_VALIDATE_ROLE": "false"}  # of which moto knows nothing
    return environ | {"PATH": os.environ["PATH"], "PYTHONPATH": "", "AWS_EC2_METADATA_DISABLED": "true"}
