"""Clients that people have, against a real server behind a stand-in for SageMaker's runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from endpoint_process import ROOT, EndpointProcess, standing_in
from runtime_stand_in import boto3_runtime, runtime_before

JPEG = b"\xff\xd8\xff"
SDK_PYTHON = ROOT / ".venv-sdk" / "bin" / "python"
NO_TELEMETRY = "SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointProcess]:
    with standing_in(tmp_path_factory.mktemp("clients")) as running:
        yield running


@pytest.fixture(scope="module")
def runtime(server: EndpointProcess) -> Iterator[Any]:
    with boto3_runtime(server.port) as client:
        yield client


def test_boto3__invoke_endpoint(runtime: Any) -> None:
    answer = runtime.invoke_endpoint(
        EndpointName="cells",
        ContentType="application/x-image",
        Accept="application/json;annotation=1",
        CustomAttributes="threshold=0.4;max_detections=5",
        Body=JPEG + b" views=9",
    )
    content = json.loads(answer["Body"].read())
    assert answer["ContentType"].startswith("application/json")
    assert len(content["annotations"]) == 5
    assert content["categories"][0] == {"class_id": 0, "name": "ant"}


def test_boto3__a_picture(runtime: Any) -> None:
    answer = runtime.invoke_endpoint(
        EndpointName="cells", ContentType="application/x-image", Accept="image/png", Body=JPEG
    )
    assert answer["Body"].read().startswith(b"\x89PNG")


def test_boto3__model_error_has_our_reason(runtime: Any) -> None:
    with pytest.raises(ClientError) as caught:
        runtime.invoke_endpoint(
            EndpointName="cells", ContentType="image/jpeg", CustomAttributes="threshold=2", Body=JPEG
        )
    error = caught.value.response
    assert error["OriginalStatusCode"] == 400
    assert "from 0 to 1" in json.loads(error["OriginalMessage"])["error"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl__a_file_and_a_form(server: EndpointProcess, tmp_path: Path) -> None:
    image = tmp_path / "large.jpg"
    image.write_bytes(JPEG + bytes(3_000_000))  # so large that curl waits for "100 Continue"
    url = f"http://127.0.0.1:{server.port}/invocations"
    for arguments in (
        ("--data-binary", f"@{image}", "-H", "Content-Type: image/jpeg"),
        ("-F", f"image=@{image}", "-F", "threshold=0.4"),
        (
            "-T",
            str(image),
            "-X",
            "POST",
            "-H",
            "Content-Type: image/jpeg",
            "-H",
            "Transfer-Encoding: chunked",
        ),
    ):
        ran = subprocess.run(["curl", "-sS", *arguments, url], capture_output=True, timeout=30, check=True)
        assert json.loads(ran.stdout)["prediction"][0][0] == 0.0


@pytest.mark.skipif(
    not SDK_PYTHON.exists(), reason="no SageMaker SDK: bash tests/image/setup_sdk.sh sets it up"
)
def test_sdk__predictors_of_version_2(server: EndpointProcess, tmp_path: Path) -> None:
    config = tmp_path / "sagemaker.yaml"
    config.write_text(NO_TELEMETRY)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_SUPPRESS_V2_WARNING": "1",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config),
    }
    with runtime_before(server.port) as address:
        script = [str(SDK_PYTHON), str(Path(__file__).with_name("sdk_predictors.py")), address]
        ran = subprocess.run(script, env=environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr + server.log
    answers = json.loads(ran.stdout.splitlines()[-1])
    rows = [[0.0, 0.5, 0.0, 0.1, 0.2, 0.3], [1.0, 0.3, 0.0, 0.1, 0.2, 0.3]]
    one = {"prediction": rows, "classes": ["ant", "bee"]}
    assert answers.pop("refused").startswith("400: threshold=2: it must be a number from 0 to 1")
    assert answers == {
        "image": one,
        "file": one,
        "instances": {"predictions": [one, one]},
        "lines": [one, one],
        "yolo": [["0", "0.1", "0.2", "0.2", "0.2", "0.5"]],
        "threshold": {"prediction": rows[:1], "classes": ["ant", "bee"]},
        "png": "\x89PNG",
    }
